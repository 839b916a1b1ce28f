// The page of a node.

import { chart, localTime, times } from "./charts.js";
import { alarm, bytes, count, counted, duration, follow, large, moment, percent, pValue, rate, table, terms } from "./live.js";

const at = (id) => document.getElementById(id);

let history = { columns: [], rows: [], row_seconds: 5, kept_seconds: 0 };
let latest = null;
let drawnRow = null;

follow({
  history: (told) => {
    history = told;
    drawnRow = null;
  },
  moment: (told) => {
    latest = told;
    note(told.row);
    show(told);
  },
});

at("span").addEventListener("change", () => drawTimes());

/** Add a row to the history, once, and let go of those that are too old. */
function note(row) {
  if (row === null) return;
  const last = history.rows.at(-1);
  if (last !== undefined && last[0] === row[0]) return;
  history.rows.push(row);
  const most = history.kept_seconds / history.row_seconds;
  if (history.rows.length > most) history.rows.splice(0, history.rows.length - most);
}

function show({ status, gate_closed, verdicts, node }) {
  const name = node.models[0] ?? "";
  at("model").textContent = name;
  document.title = `${status.state} · ${name} · Hallmark`;
  at("state").textContent = status.state;
  alarm(trouble(status));
  showRound(status);
  showInference(status, gate_closed);
  showValidation(status, node);
  showCallbacks(status.callbacks);
  showVerdicts(verdicts);
  showNode(status, node);
  draw();
}

/** Draw the charts where there is a new row. */
function draw() {
  const row = history.rows.at(-1);
  if (latest === null || row === undefined || row[0] === drawnRow) return;
  drawnRow = row[0];
  drawTimes();
  drawNumbers(latest.histogram);
}

function trouble(status) {
  if (status.is_stuck) {
    return "The engine has work, and does not answer.";
  }
  const interrupted = status.interrupted_round;
  if (interrupted !== null && !interrupted.is_resumed) {
    return `The last server ended in ${interrupted.phase} of block ${interrupted.block_height}. Start the round again, or stop it.`;
  }
  if (status.callbacks.dead_letters > 0) {
    return `${counted(status.callbacks.dead_letters, "callback")} could not be delivered and wait for a decision: hallmark outbox list.`;
  }
  return "";
}

function showRound(status) {
  const config = status.config;
  if (config === null) {
    terms(at("round"), [["State", `${status.state}: no round yet`]]);
    return;
  }
  const group = config.n_groups > 1 ? `, group ${config.group_id} of ${config.n_groups}` : "";
  const node = config.node_id === null ? null : `${config.node_id} of ${config.node_count}${group}`;
  terms(at("round"), [
    ["State", status.state],
    ["Ended", status.reason],
    ["No answer for", status.is_stuck ? duration(status.seconds_since_progress) : null, "bad"],
    ["Block", `${large(config.block_height)}, ${config.block_hash}`],
    ["Public key", config.public_key],
    ["Node", node],
    ["Checked", counted(status.total_checked, "nonce")],
    ["Valid", counted(status.total_valid, "nonce")],
    ["Failed", status.total_failed ? counted(status.total_failed, "nonce") : null, "bad"],
    ["Rate", status.total_checked ? `${rate(status.rate_per_second)} nonces/s` : null],
    ["For", duration(status.elapsed_seconds)],
    ["Target", target(status)],
    ["Callbacks to", config.callback_url],
  ]);
}

function target(status) {
  if (status.valid_rate === 1) return "every nonce counts";
  return `r_target ${status.r_target.toFixed(4)}: ${percent(status.valid_rate)} count`;
}

function showInference({ inference }, isRefused) {
  const row = history.rows.at(-1);
  const tokens = row === undefined ? null : row[history.columns.indexOf("tokens_per_second")];
  terms(at("inference"), [
    ["In flight", counted(inference.connections, "request")],
    ["Quiet", inference.quiet_connections ? counted(inference.quiet_connections, "connection") : null],
    ["Generated", tokens === null ? null : `${rate(tokens)} tokens/s`],
    ["Chat", isRefused ? "refused while the round generates" : "served"],
  ]);
}

function showValidation({ validation }, node) {
  const stall = validation.stall_ms;
  terms(at("validation"), [
    ["Waiting", `${counted(validation.queued_nonces, "nonce")} of ${counted(validation.queued_jobs, "batch", "batches")}`],
    ["Judged", counted(validation.completed_jobs, "batch", "batches")],
    ["Given up", validation.cancelled_jobs ? count(validation.cancelled_jobs) : null],
    ["Speed", validation.nonces_per_second === null ? null : `${rate(validation.nonces_per_second)} nonces/s`],
    ["Share beside chat", validation.share_used === null ? `up to ${percent(validation.share)}` : `${percent(validation.share_used)} of ${percent(validation.share)}`],
    ["Stall beside chat", stall.p99 === null ? `up to ${node.max_stall_ms} ms` : `p50 ${rate(stall.p50)}, p99 ${rate(stall.p99)}, most ${rate(stall.max)} ms of ${node.max_stall_ms} ms`],
    ["Stall limit", validation.max_stall_is_met === false ? "not kept: one layer takes longer than max_stall_ms" : null, "bad"],
  ]);
}

function showCallbacks(callbacks) {
  terms(at("callbacks"), [
    ["Delivered", count(callbacks.delivered)],
    ["Waiting", count(callbacks.queued)],
    ["Dropped", callbacks.dropped ? count(callbacks.dropped) : null, "bad"],
    ["Dead letters", callbacks.dead_letters ? count(callbacks.dead_letters) : null, "bad"],
    ["Outbox", callbacks.outbox],
  ]);
  const receivers = Object.entries(callbacks.receivers);
  table(
    at("receivers"),
    "Callbacks by receiver",
    [
      ["Receiver", ([url]) => url, "text"],
      ["Waiting", ([, lane]) => count(lane.queued), "number"],
      ["Oldest", ([, lane]) => duration(lane.oldest_age), "number"],
      ["Next attempt", ([, lane]) => duration(lane.next_attempt), "number"],
      ["Delivered", ([, lane]) => count(lane.delivered), "number"],
      ["Dropped", ([, lane]) => [count(lane.dropped), lane.dropped ? "bad" : ""], "number"],
      ["Last error", ([, lane]) => lane.last_error ?? "", "text"],
    ],
    receivers,
    "No receiver yet.",
  );
}

function showVerdicts(verdicts) {
  const test = (name) => [name.replace("_", " "), ({ verdict }) => pOfTest(verdict, name), "number"];
  table(
    at("verdicts"),
    "The latest verdicts, with the p-value of each test",
    [
      ["When", (job) => moment(job.at)],
      ["Prover", (job) => job.public_key, "key"],
      ["Block", (job) => job.block_hash, "key"],
      ["Nonces", (job) => count(job.n_claims), "number"],
      ["Verdict", (job) => (job.verdict === null ? ["none", "bad"] : verdictOf(job.verdict))],
      ["p-value", (job) => pValue(job.verdict?.probability_honest), "number"],
      ...["nonces", "rms", "beyond", "signed_mean", "density"].map(test),
      ["Rejected by", (job) => job.error ?? job.verdict.rejected_by.join(", ").replaceAll("_", " "), "text"],
    ],
    verdicts,
    "No verdict in the last hour.",
  );
}

const verdictOf = ({ verdict }) => [verdict.replaceAll("_", " "), verdict === "honest" ? "good" : "bad"];

const pOfTest = (verdict, name) => (verdict !== null && name in verdict.tests ? pValue(verdict.tests[name]) : "");

function showNode({ numerics, projection }, node) {
  const versions = [
    ["Models", node.models.join(", ")],
    ["Hallmark", node.hallmark_version],
    ["Protocol", node.protocol],
    ["vLLM", node.vllm_version],
    ["PyTorch", node.torch_version],
    ["Width", count(node.hidden_size)],
    ["dtype", node.dtype],
    ["Projections", projection.bytes ? bytes(projection.bytes) : null],
  ];
  const shown = new Set(["vllm", "torch", "dtype"]);
  const others = Object.entries(numerics).filter(([name]) => !shown.has(name));
  terms(at("node"), [...versions, ...others.map(([name, value]) => [name.replaceAll("_", " "), String(value)])]);
}

function drawTimes() {
  const seconds = Number(document.querySelector("#span input:checked").value);
  const end = latest?.now ?? Date.now() / 1000;
  const rows = history.rows.filter((row) => row[0] >= end - seconds - history.row_seconds);
  const x = times(rows.map((row) => row[0]));
  const column = (name) => {
    const place = history.columns.indexOf(name);
    return rows.map((row) => row[place]);
  };
  const last = (name) => column(name).at(-1) ?? 0;
  // A young history fills the chart.
  const begin = Math.max(end - seconds, Math.min(rows[0]?.[0] ?? end, end - 60));
  const range = [localTime(begin), localTime(end)];
  chart(
    at("rate"),
    `Nonces per second over time: ${rate(last("generated_per_second")) || 0} generated and ${rate(last("validated_per_second")) || 0} validated now`,
    [
      { name: "generated", x, y: column("generated_per_second"), colour: "first" },
      { name: "validated", x, y: column("validated_per_second"), colour: "second", dash: "dash" },
    ],
    { range },
  );
  chart(
    at("tokens"),
    `Tokens per second and requests in flight over time: ${rate(last("tokens_per_second")) || 0} tokens/s and ${last("connections")} requests now`,
    [
      { name: "tokens/s", x, y: column("tokens_per_second"), colour: "first" },
      { name: "requests", x, y: column("connections"), colour: "third", dash: "dash", right: true },
    ],
    { range },
  );
  chart(
    at("share"),
    `Nonces waiting for validation and its share of the engine beside chat over time: ${last("queued_nonces")} nonces now`,
    [
      { name: "nonces waiting", x, y: column("queued_nonces"), colour: "second" },
      { name: "share, %", x, y: column("share_used").map((share) => (share === null ? null : 100 * share)), colour: "third", dash: "dash", right: true },
    ],
    { range },
  );
  chart(
    at("waiting"),
    `Callbacks waiting and the age of the oldest over time: ${last("callbacks_queued")} waiting now`,
    [
      { name: "waiting", x, y: column("callbacks_queued"), colour: "first" },
      { name: "oldest, s", x, y: column("callbacks_oldest_age"), colour: "second", dash: "dash", right: true },
    ],
    { range },
  );
}

function drawNumbers(histogram) {
  const counts = histogram?.counts ?? [];
  const total = counts.reduce((sum, each) => sum + each, 0);
  const x = counts.map((_, place) => histogram.first_edge + (place + 0.5) * histogram.bin_width);
  const lines = [];
  if (histogram?.target != null) {
    lines.push({ x: histogram.target, words: `r_target ${histogram.r_target.toFixed(4)}`, colour: "bad" });
  }
  chart(
    at("numbers"),
    `The first number of ${counted(total, "nonce")}, and the law that they follow`,
    [
      { name: "found", x, y: counts, type: "bar", colour: "first" },
      { name: "law", x, y: histogram?.expected ?? [], colour: "second", shape: "spline" },
    ],
    { lines, isTime: false, title: "number, in standard deviations of the law" },
  );
  const side = lines.length ? " Nonces to the right of the dotted line count." : "";
  at("numbers-note").textContent = total
    ? `The first number of each of ${counted(total, "nonce")} that this server has computed in the round.${side}`
    : "No nonce has been computed in this round.";
}
