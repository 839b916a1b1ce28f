// The page of a receiver.

import { chart, localTime, times } from "./charts.js";
import { count, counted, follow, large, moment, pValue, rate, short, table, terms } from "./live.js";

const at = (id) => document.getElementById(id);

const COLOURS = ["first", "second", "third", "good", "bad", "faint", "text"];

follow({
  moment: (told) => {
    showTotals(told);
    showProvers(told.provers);
    showFleet(told);
    showBlocks(told.blocks);
    showBatches(told.batches);
    drawWhenNew(told);
  },
});

function showTotals({ totals, batches }) {
  const of = ({ batches, nonces }) => `${counted(batches, "batch", "batches")}, ${counted(nonces, "nonce")}`;
  terms(at("totals"), [
    ["Proofs", of(totals.generated)],
    ["Verdicts", of(totals.validated)],
    ["Last", batches.length ? moment(batches[0].received_at) : "nothing yet"],
  ]);
}

function showProvers(provers) {
  table(
    at("provers"),
    "Provers of the latest batches, with what their verdicts show together",
    [
      ["Prover", (prover) => prover.public_key, "key"],
      ["Last", (prover) => moment(prover.received_at)],
      ["Proved", (prover) => count(prover.generated), "number"],
      ["Verdicts", (prover) => count(prover.verdicts), "number"],
      ["Of fraud", (prover) => [count(prover.fraud), prover.fraud ? "bad" : ""], "number"],
      ["Judged together", (prover) => together(prover.record)],
      ["p-value", (prover) => (isJudged(prover.record) ? pValue(prover.record.p_value) : ""), "number"],
      ["Nonces judged", (prover) => count(prover.record?.nonces), "number"],
      ["Rounds", (prover) => count(prover.record?.rounds), "number"],
    ],
    provers,
    "Nothing has come yet.",
  );
}

/** Verdicts whose nonces do not count together, as those below rate 1 without vectors, are in no record. */
const isJudged = (record) => record !== null && record.nonces > 0;

function together(record) {
  if (!isJudged(record)) return "not yet";
  return record.fraud_detected ? ["fraud", "bad"] : ["honest", "good"];
}

/** All nodes together, and each: those of a fleet have one key, and a number of their own. */
function showFleet({ fleet, nodes, verdicts }) {
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);
  const lately = `in the last ${counted(fleet.minutes, "minute")}`;
  terms(at("fleet"), [
    ["Rate", fleet.nodes ? `${rate(fleet.rate)} nonces/s ${lately}` : ""],
    ["Proving", fleet.nodes ? `${count(fleet.nodes_lately)} of ${counted(fleet.nodes, "node")} ${lately}` : ""],
    ["Verdicts", fleet.nodes ? `${count(sum(verdicts.honest))} honest, ${count(sum(verdicts.fraud))} fraud in the last three hours` : ""],
  ]);
  table(
    at("nodes"),
    "Nodes of the latest batches",
    [
      ["Prover", (node) => node.public_key, "key"],
      ["Node", (node) => large(node.node_id), "number"],
      ["Last", (node) => (node.received_at === null ? "" : moment(node.received_at))],
      ["Nonces/s", (node) => rate(node.rate), "number"],
      ["Honest", (node) => count(node.honest), "number"],
      ["Fraud", (node) => [count(node.fraud), node.fraud ? "bad" : ""], "number"],
    ],
    nodes,
    "Nothing has come yet.",
  );
}

function showBlocks(blocks) {
  table(
    at("blocks"),
    "Blocks of the latest batches",
    [
      ["Height", (block) => large(block.block_height), "number"],
      ["Hash", (block) => block.block_hash, "key"],
      ["Last", (block) => moment(block.received_at)],
      ["Provers", (block) => count(block.provers), "number"],
      ["Batches", (block) => count(block.batches), "number"],
      ["Nonces", (block) => count(block.nonces), "number"],
      ["Verdicts", (block) => count(block.verdicts), "number"],
      ["Of fraud", (block) => [count(block.fraud), block.fraud ? "bad" : ""], "number"],
    ],
    blocks,
    "Nothing has come yet.",
  );
}

function showBatches(batches) {
  table(
    at("batches"),
    "The latest batches",
    [
      ["Id", (batch) => String(batch.id), "number"],
      ["When", (batch) => moment(batch.received_at)],
      ["Kind", (batch) => batch.kind],
      ["Prover", (batch) => batch.public_key, "key"],
      ["Block", (batch) => large(batch.block_height), "number"],
      ["Node", (batch) => batch.node_id, "number"],
      ["Nonces", (batch) => count(batch.n_nonces), "number"],
      ["Invalid", (batch) => count(batch.n_invalid), "number"],
      ["Verdict", verdictOf],
      ["p-value", (batch) => pValue(batch.probability_honest), "number"],
    ],
    batches,
    "Nothing has come yet.",
  );
}

function verdictOf({ fraud_detected: isFraud }) {
  if (isFraud === null) return "";
  return isFraud ? ["fraud", "bad"] : ["honest", "good"];
}

/** The minute in which something came first, or 15 minutes ago: a young history fills the charts. */
function beginning(minutes, columns) {
  const first = minutes.findIndex((_, place) => columns.some((column) => column[place] > 0));
  return minutes[Math.min(first < 0 ? minutes.length : first, minutes.length - 16)];
}

let drawn = "";

function drawWhenNew({ minutes, verdicts, rates }) {
  const key = JSON.stringify([minutes, verdicts, rates]);
  if (key === drawn) return;
  const x = times(minutes);
  const range = [localTime(beginning(minutes, [verdicts.honest, verdicts.fraud, ...rates.map((each) => each.rates)])), x.at(-1)];
  const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);
  chart(
    at("verdict-times"),
    `Verdicts in each minute of the last three hours: ${sum(verdicts.honest)} honest, ${sum(verdicts.fraud)} fraud`,
    [
      { name: "honest", x, y: verdicts.honest, type: "bar", colour: "good" },
      { name: "fraud", x, y: verdicts.fraud, type: "bar", colour: "bad" },
    ],
    { range },
  );
  chart(
    at("rates"),
    `Nonces per second of ${counted(rates.length, "prover")} in each minute of the last three hours`,
    rates.map((each, place) => ({
      name: each.public_key === null ? "others" : short(each.public_key),
      x,
      y: each.rates,
      colour: COLOURS[place],
    })),
    { range },
  );
  drawn = key;
}
