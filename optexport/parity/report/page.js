"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#1a5fb4", "#c64600", "#26834a", "#813d9c", "#a51d2d", "#0f766e", "#986a00", "#4a5568"];
const NS = "http://www.w3.org/2000/svg";
const by = id => document.getElementById(id);

function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) k in e ? (e[k] = v) : e.setAttribute(k, v);
  e.append(...children);
  return e;
}
function shape(tag, attributes, text) {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}
const finite = x => typeof x === "number" && Number.isFinite(x);
const brief = x => (x === null ? "–" : x === 0 ? "0" : finite(x) ? x.toExponential(1) : String(x));

const percent = x => (!finite(x) ? String(x) : x >= 0.1 ? (100 * x).toFixed(0) + " %" : (100 * x).toPrecision(1) + " %");

/* Lines over steps. lines: [{name, values, colour, dashed}]; log: the vertical axis is logarithmic. */
function plot(lines, { log = false, title = "", y = "" } = {}) {
  const W = 600, H = 280, L = 62, R = 12, T = 24, B = 38;
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": title });
  svg.append(shape("text", { x: L, y: 14, "font-weight": 600 }, title));
  const steps = Math.max(2, ...lines.map(l => l.values.length));
  const shown = lines.flatMap(l => l.values).filter(v => finite(v) && (!log || v > 0));
  if (!shown.length) {
    svg.append(shape("text", { x: L, y: H / 2 }, log && lines.some(l => l.values.length) ? "every value is exactly the referee's" : "there are no numbers"));
    return svg;
  }
  const f = log ? Math.log10 : v => v;
  let low = f(Math.min(...shown)), high = f(Math.max(...shown));
  if (log) { low = Math.floor(low - 0.01); high = Math.ceil(high + 0.01); } else if (low === high) { low -= 1; high += 1; }
  const X = t => L + ((W - L - R) * t) / (steps - 1);
  const Y = v => T + (H - T - B) * (1 - (f(v) - low) / (high - low));
  const count = log ? Math.min(6, high - low) : 5;
  for (let i = 0; i <= count; i++) {
    const at = low + ((high - low) * i) / count, place = T + (H - T - B) * (1 - i / count);
    svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: place, y2: place }));
    svg.append(shape("text", { x: L - 6, y: place + 4, "text-anchor": "end" }, log ? "1e" + (Number.isInteger(at) ? at : at.toFixed(1)) : at.toPrecision(3)));
  }
  for (let i = 0; i <= 5; i++) {
    const t = Math.round(((steps - 1) * i) / 5);
    svg.append(shape("text", { x: X(t), y: H - B + 16, "text-anchor": "middle" }, t + 1));
  }
  svg.append(shape("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }), shape("line", { class: "axis", x1: L, x2: L, y1: T, y2: H - B }));
  svg.append(shape("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, "update"));
  svg.append(shape("text", { x: 12, y: (T + H - B) / 2, transform: `rotate(-90 12 ${(T + H - B) / 2})`, "text-anchor": "middle" }, y));
  for (const line of lines) {
    // A value that a logarithm cannot show (0) leaves a gap.
    const pieces = [[]];
    line.values.forEach((v, t) => (finite(v) && (!log || v > 0) ? pieces[pieces.length - 1].push([X(t), Y(v)]) : pieces.push([])));
    for (const piece of pieces.filter(p => p.length)) {
      const points = piece.map(p => p.map(n => n.toFixed(1)).join(",")).join(" ");
      const drawn = shape("polyline", { points, fill: "none", stroke: line.colour, "stroke-width": line.wide || 1.8, "stroke-dasharray": line.dashed || "none", "stroke-linejoin": "round" });
      drawn.append(shape("title", {}, line.name));
      svg.append(drawn);
      if (piece.length === 1) svg.append(shape("circle", { cx: piece[0][0], cy: piece[0][1], r: 2.5, fill: line.colour }));
    }
  }
  return svg;
}
function key(lines) {
  return element("div", { className: "key" }, ...lines.map(l => {
    const mark = element("i"); mark.style.background = l.dashed ? `repeating-linear-gradient(90deg, ${l.colour} 0 5px, transparent 5px 8px)` : l.colour;
    return element("span", {}, mark, l.name);
  }));
}
function bars(counts, names, title) {
  const W = 420, H = 280, L = 62, B = 52, T = 24, total = counts.reduce((a, b) => a + b, 0) || 1;
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": title });
  svg.append(shape("text", { x: L, y: 14, "font-weight": 600 }, title));
  const wide = (W - L - 10) / counts.length;
  counts.forEach((n, i) => {
    const tall = ((H - T - B) * n) / total;
    const bar = shape("rect", { x: L + i * wide + 2, y: H - B - tall, width: wide - 4, height: Math.max(tall, n ? 1 : 0), fill: "#1a5fb4" });
    bar.append(shape("title", {}, `${n} of ${total} numbers`));
    svg.append(bar, shape("text", { x: L + (i + 0.5) * wide, y: H - B + 14, "text-anchor": "middle" }, names[i]));
  });
  for (let i = 0; i <= 4; i++) svg.append(shape("text", { x: L - 6, y: H - B - ((H - T - B) * i) / 4 + 4, "text-anchor": "end" }, `${25 * i} %`));
  svg.append(shape("line", { class: "axis", x1: L, x2: W - 8, y1: H - B, y2: H - B }));
  svg.append(shape("text", { x: (L + W) / 2, y: H - 12, "text-anchor": "middle" }, "units in the last place, at most"));
  return svg;
}

/* The colour of error / bound: green far inside, yellow near, red outside. */
function colour(ratio) {
  if (ratio === 0) return "#e3f3e8";
  if (!finite(ratio) || ratio > 1) return "#f28b82";
  const x = Math.max(0, Math.min(1, 1 + Math.log10(ratio) / 2));  // 0.01 -> 0, 1 -> 1
  const mix = (a, b, t) => a.map((v, i) => Math.round(v + (b[i] - v) * t));
  const low = [198, 234, 207], middle = [255, 243, 176], high = [255, 196, 120];
  return `rgb(${x < 0.5 ? mix(low, middle, 2 * x) : mix(middle, high, 2 * x - 1)})`;
}
function legend() {
  for (const [text, ratio] of [["exactly the referee's", 0], ["1 % of the bound", 0.01], ["10 %", 0.1], ["30 %", 0.3], ["at the bound", 1], ["outside", 2]]) {
    const s = element("span", {}, text); s.style.background = colour(ratio); by("legend").append(s);
  }
  const broken = element("span", {}, "wrong apart from numbers, or lost"); broken.style.background = "#b3261e"; broken.style.color = "#fff"; by("legend").append(broken);
}

const label = r => (r.form === "native" ? "native" : r.backend) + " " + r.dtype.replace("float", "f");
const name = r => r.optimizer + " " + r.description;
let chosen = null;

function matrix(problem, results) {
  const rank = c => (c.startsWith("native") ? "0" : "1") + c;
  const columns = [...new Set(results.map(label))].sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  const rows = [...new Set(results.map(name))];
  const cells = new Map(results.map(r => [name(r) + "\n" + label(r), r]));
  const head = element("tr", {}, element("th", {}, "optimizer"), ...columns.map(c => element("th", {}, c)));
  const body = rows.map(row => {
    const tds = columns.map(c => {
      const r = cells.get(row + "\n" + c);
      if (!r) return element("td", { className: "none" });
      if (r.status === "unavailable") return element("td", { className: "none", title: r.sentence }, "n/a");
      const broken = ["fault", "lost", "not-run"].includes(r.status);
      const mark = r.status === "within" ? "" : r.status === "outside" ? " ✗" : "";
      const td = element("td", { title: `${r.id}: ${r.sentence || "within its bound"}`, tabIndex: 0, className: broken ? "broken" : "" }, broken ? r.fault || r.status : brief(r.error) + mark);
      if (!broken) td.style.background = colour(r.ratio);
      td.onclick = () => { show(r, td); by("detail").scrollIntoView({ block: "nearest" }); };
      td.onkeydown = e => { if (e.key === "Enter") td.onclick(); };
      r.cell = td;
      return td;
    });
    const [optimizer, ...rest] = row.split(" ");
    return element("tr", {}, element("th", {}, optimizer, element("small", {}, rest.join(" "))), ...tds);
  });
  return [element("h3", {}, `Problem: ${problem}`), element("div", { className: "scroll" }, element("table", { className: "matrix" }, element("thead", {}, head), element("tbody", {}, ...body)))];
}
function show(r, td) {
  if (chosen) chosen.classList.remove("chosen");
  if (td) td.classList.add("chosen");
  chosen = td;
  by("detail").hidden = false;
  by("detail-title").textContent = r.id;
  by("detail-said").textContent = r.sentence || `Within its bound: the largest error is ${brief(r.error)}, ${percent(r.ratio)} of what rounding explains.`;
  by("detail-said").className = r.sentence ? "said" : "";
  const lines = Object.entries(r.curves || {}).map(([slot, values], i) => ({ name: slot, values, colour: COLOURS[i % COLOURS.length] }));
  if (r.bounds) lines.push({ name: "what rounding explains", values: r.bounds, colour: "#6b7280", dashed: "5 3" });
  by("detail-plot").replaceChildren(plot(lines, { log: true, title: "Largest relative error of each slot", y: "relative error" }), key(lines));
  const names = [...report.ulp_classes.map(n => (n >= 1024 ? n / 1024 + "k" : String(n))), "more"];
  by("detail-ulp").replaceChildren(...(r.ulp ? [bars(r.ulp, names, `Distance from the referee rounded to ${r.dtype}`)] : []));
  const head = element("tr", {}, ...["parameter", "slot", "largest error", "of its bound", "farthest, ulp", "first outside"].map(t => element("th", {}, t)));
  const rows = r.slots.map(s => element("tr", {}, ...[s.param, s.slot, brief(s.error), percent(s.ratio), s.ulp_max > 2 ** 53 ? "NaN" : s.ulp_max, s.first === null ? "–" : "update " + s.first].map(t => element("td", {}, String(t)))));
  by("detail-slots").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
function losses() {
  const groups = new Map();
  for (const r of report.results) if (r.losses.length) groups.set(name(r), [...(groups.get(name(r)) || []), r]);
  if (!groups.size) return;
  by("losses").append(element("h2", {}, "Loss on digits"), element("p", {}, "Softmax regression. Every backend is given the gradients of the referee's run; the curve is the loss at the parameters it arrives at. Curves that lie over each other are one line."));
  const all = element("div", { className: "loss" });
  for (const [row, results] of groups) {
    const lines = [{ name: "referee (float64)", values: report.referee_losses[results[0].loss_key] || [], colour: "#c3c9d1", wide: 7 }];
    results.forEach((r, i) => lines.push({ name: label(r), values: r.losses, colour: COLOURS[i % COLOURS.length], dashed: i % 2 ? `${4 + 2 * i} ${3 + i}` : "" }));
    all.append(element("figure", {}, plot(lines, { title: row, y: "mean cross entropy" }), key(lines)));
  }
  by("losses").append(all);
}
function list(where, title, sentences) {
  if (sentences.length) where.append(element("h2", {}, title), element("ul", {}, ...sentences.map(s => element("li", {}, s))));
}
function main() {
  const changed = report.baseline && !report.baseline.passed;
  by("verdict").textContent = !report.passed ? "Not everything is as it should be." : changed ? "Within the bounds, but the numbers are not those of the baseline." : "Everything that ran is within its bounds.";
  by("verdict").className = report.passed && !changed ? "good" : "bad";
  by("counts").textContent = Object.entries(report.counts).map(([k, n]) => `${n} ${k}`).join(" · ") + ` · ${report.seconds.toFixed(0)} s`;
  const failed = report.results.filter(r => !["within", "unavailable"].includes(r.status));
  const workers = report.workers.filter(w => ["died", "hung", "rubbish"].includes(w.status)).map(w => `${w.status}: ${w.sentence}`);
  list(by("problems-list"), "What is wrong", [...workers, ...failed.slice(0, 50).map(r => `${r.id}: ${r.sentence}`), ...(failed.length > 50 ? [`and ${failed.length - 50} more, see the cells below`] : [])]);
  if (report.baseline) list(by("baseline"), `Beside the baseline ${report.baseline.path}`, [...report.baseline.said.slice(0, 30), ...(report.baseline.said.length > 30 ? [`and ${report.baseline.said.length - 30} more, in the JSON report`] : [])]);
  legend();
  for (const problem of [...new Set(report.results.map(r => r.problem))]) by("matrices").append(...matrix(problem, report.results.filter(r => r.problem === problem)));
  const rank = r => (r.status === "within" ? r.ratio : r.status === "unavailable" ? -1 : 1e9);
  const worst = [...report.results].sort((a, b) => rank(b) - rank(a))[0];
  if (worst && worst.status !== "unavailable") show(worst, worst.cell);
  losses();
  for (const w of report.workers) {
    const said = Object.entries(w.environment).map(([k, v]) => `${k} ${v}`).join(", ");
    by("workers").append(element("h3", {}, `${w.backend}: ${w.status}`), element("p", {}, w.python), ...(w.sentence ? [element("p", { className: w.status === "absent" ? "" : "said" }, w.sentence)] : []), element("p", {}, said));
  }
  document.body.dataset.ready = "yes";
}
main();
