// Charts by plotly.js, in the page's colours; each says in words what it shows.

const wanted = new Map();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const draw of wanted.values()) draw();
});

/** Draw a chart, or draw it anew. A series is {name, x, y, type, colour, dash, right}; colours are the page's. */
export function chart(place, words, series, options = {}) {
  const draw = () => drawn(place, words, series, options);
  wanted.set(place, draw);
  draw();
}

function drawn(place, words, series, { title = "", range = null, lines = [], isTime = true }) {
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", words);
  if (!window.Plotly) {
    place.textContent = "Charts need plotly.js: pip install plotly, where the server runs.";
    return;
  }
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = {
    fixedrange: true,
    gridcolor: colour("line"),
    linecolor: colour("line"),
    zeroline: false,
    automargin: true,
  };
  const data = series.map((each) => ({
    type: each.type === "bar" ? "bar" : "scatter",
    mode: each.type === "bar" ? undefined : "lines",
    name: plain(each.name),
    x: each.x,
    y: each.y,
    yaxis: each.right ? "y2" : "y",
    connectgaps: false,
    line: { color: colour(each.colour), width: 2, dash: each.dash, shape: each.shape },
    marker: { color: colour(each.colour) },
  }));
  const layout = {
    autosize: true,
    margin: { l: 8, r: 8, t: 8, b: 8 },
    paper_bgcolor: colour("card"),
    plot_bgcolor: colour("card"),
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 12 },
    showlegend: series.length > 1,
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line") },
    dragmode: false,
    barmode: "stack",
    bargap: 0.05,
    xaxis: { ...axis, type: isTime ? "date" : "linear", range: range ?? undefined, autorange: range === null, title: { text: title } },
    yaxis: { ...axis, rangemode: "tozero" },
    shapes: lines.map((line) => ({
      type: "line",
      x0: line.x,
      x1: line.x,
      y0: 0,
      y1: 1,
      yref: "paper",
      line: { color: colour(line.colour), width: 2, dash: "dot" },
    })),
    annotations: lines.map((line) => ({
      x: line.x,
      y: 1,
      yref: "paper",
      yanchor: "bottom",
      showarrow: false,
      text: plain(line.words),
      font: { color: colour(line.colour) },
    })),
  };
  if (series.some((each) => each.right)) {
    layout.yaxis2 = { ...axis, rangemode: "tozero", overlaying: "y", side: "right", showgrid: false, tickmode: "auto" };
  }
  window.Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
}

// plotly.js takes names for markup, and keys of provers are anybody's.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Times in the form that plotly shows in the reader's own zone. */
export const times = (seconds) => seconds.map(localTime);

export function localTime(seconds) {
  const at = new Date(seconds * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().replace("Z", "");
}
