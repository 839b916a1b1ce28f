// What both pages do alike: follow the server's events, and write values the way people read them.

const STALE_MILLISECONDS = 8000;
const RETRY_MILLISECONDS = 3000;

/** Follow the events of a server that comes and goes, while the page is seen; `handlers` has one for each name. */
export function follow(handlers) {
  let source = null;
  let heardAt = Date.now();
  let retry = null;

  function hear() {
    heardAt = Date.now();
    connected(true, "Live");
  }

  function connect() {
    retry = null;
    heardAt = Date.now();
    source = new EventSource("poc/events");
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        hear();
        handle(JSON.parse(event.data));
      });
    }
    source.onerror = lose;
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(retry);
    retry = null;
  }

  // An event source does not say why it was refused; this does.
  async function ask() {
    retry = null;
    try {
      const patience = AbortSignal.timeout(STALE_MILLISECONDS);
      const answer = await fetch("poc/moment", { cache: "no-store", signal: patience });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (answer.ok && !document.hidden) {
        connect();
        return;
      }
    } catch {
      // The server is not there. That is shown already.
    }
    askLater();
  }

  function askLater() {
    if (!document.hidden) retry ??= setTimeout(ask, RETRY_MILLISECONDS);
  }

  function lose() {
    source?.close();
    source = null;
    connected(false, `No word from the server since ${clock(heardAt / 1000)}; what is shown is of then`);
    askLater();
  }

  // A connection may end without a word, as after a sleep.
  setInterval(() => {
    if (source !== null && Date.now() - heardAt > STALE_MILLISECONDS) lose();
  }, 1000);
  // Of a host a browser opens few connections: a page that nobody sees holds none.
  document.addEventListener("visibilitychange", () => {
    close();
    if (!document.hidden) connect();
  });
  connect();
}

function connected(isLive, words) {
  document.body.classList.toggle("is-stale", !isLive);
  const shown = document.getElementById("connection");
  if (shown.textContent !== words) shown.textContent = words;
  shown.className = isLive ? "good" : "bad";
}

/** Show a sentence above everything else, or none. */
export function alarm(sentence) {
  const shown = document.getElementById("alarm");
  shown.hidden = !sentence;
  if (shown.textContent !== sentence) shown.textContent = sentence;
}

/** Fill a list of terms; entries without a value are left out. What is there is changed, not made anew. */
export function terms(list, entries) {
  const wanted = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  while (list.children.length > 2 * wanted.length) list.lastElementChild.remove();
  wanted.forEach(([term, value, className], place) => {
    while (list.children.length <= 2 * place + 1) {
      list.append(document.createElement("dt"), document.createElement("dd"));
    }
    put(list.children[2 * place], term);
    put(list.children[2 * place + 1], value, className);
  });
}

/** Show a table with a caption, or a sentence where it has no rows. A column is [heading, cell, className]. */
export function table(place, caption, columns, rows, nothing) {
  if (rows.length === 0) {
    if (place.dataset.shown !== "nothing") place.replaceChildren(element("p", nothing, "hint"));
    place.dataset.shown = "nothing";
    return;
  }
  if (place.dataset.shown !== "table") {
    const region = element("div", "", "scroll");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", caption);
    const made = document.createElement("table");
    made.createCaption().textContent = caption;
    const heading = made.createTHead().insertRow();
    for (const [name, , className] of columns) {
      const cell = element("th", name, className);
      cell.scope = "col";
      heading.append(cell);
    }
    made.createTBody();
    region.append(made);
    place.replaceChildren(region);
    place.dataset.shown = "table";
  }
  const body = place.querySelector("tbody");
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, number) => {
    const shown = body.rows[number] ?? body.insertRow();
    columns.forEach(([, cell, className], column) => {
      const value = cell(row);
      const [text, extra] = Array.isArray(value) ? value : [value, ""];
      put(shown.cells[column] ?? shown.insertCell(), text, [className, extra].filter(Boolean).join(" "));
    });
  });
}

function put(node, text, className = "") {
  const shown = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== shown) node.textContent = shown;
  if (node.className !== className) node.className = className;
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

export const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));

/** A whole number that comes as text, since it may be too large for a number here. */
export const large = (text) => BigInt(text).toLocaleString("en");

export const counted = (value, noun, plural = `${noun}s`) => `${count(value)} ${value === 1 ? noun : plural}`;

export function rate(value) {
  if (value === null || value === undefined) return "";
  return value >= 100 ? count(Math.round(value)) : value.toLocaleString("en", { maximumFractionDigits: 1 });
}

export const percent = (value) =>
  value === null || value === undefined ? "" : `${(100 * value).toLocaleString("en", { maximumSignificantDigits: 4 })}%`;

export function pValue(value) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "< 1e-300";
  return value >= 0.001 ? value.toLocaleString("en", { maximumSignificantDigits: 2 }) : value.toExponential(1);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${seconds.toLocaleString("en", { maximumFractionDigits: seconds < 10 ? 1 : 0 })} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value === 0 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${(value / 1024 ** power).toLocaleString("en", { maximumFractionDigits: 1 })} ${units[power]}`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

/** The time alone where it is of today, else with its day. */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clock(seconds) : `${at.toLocaleDateString("en-CA")} ${clock(seconds)}`;
}

/** A long key with its middle left out, for charts. */
export const short = (text) => (text.length > 22 ? `${text.slice(0, 12)}…${text.slice(-6)}` : text);
