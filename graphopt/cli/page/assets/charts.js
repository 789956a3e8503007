// What all drawings share.

/** A frame that draws again when its size changes: `draw(width, height)` gives an svg. With a `height` in pixels, frame and
 * legend scroll together; without, the frame takes what room there is. */
function chart(host, toolbar, draw, legend, height) {
  const frame = el("div", {class: "chart", style: height ? {height: height + "px", flex: "none"} : {}});
  if (height) put(host, toolbar, el("div", {class: "scroller"}, frame, legend));
  else put(host, toolbar, frame, legend);
  let size = "";
  const again = () => {
    const [w, h] = [frame.clientWidth, frame.clientHeight];
    if (!w || !h) return;
    size = `${w} ${h}`;
    frame.replaceChildren(draw(w, h));
  };
  again();
  new ResizeObserver(() => {
    if (size !== `${frame.clientWidth} ${frame.clientHeight}`) again();
  }).observe(frame);
  return again;
}

/** The line above a drawing: its name, what it says in words, and what else is to stand there. */
function toolbar(title, words, ...more) {
  return el("div", {class: "toolbar"}, el("strong", {}, title), el("span", {class: "muted"}, words), ...more);
}

/** The empty svg of a drawing; `label` is for those who do not see it. */
function drawingOf(width, height, name, label, attributes) {
  return svg("svg", {width, height, class: name, role: "img", "aria-label": label, ...attributes});
}

/** A label cut to the letters that `width` pixels hold; empty where that are fewer than `least`. */
function cut(label, width, least) {
  const fits = Math.floor((width - 8) / 6.6);
  return fits < least ? "" : label.length > fits ? label.slice(0, Math.max(fits - 1, 1)) + "…" : label;
}

/** Round steps for an axis from 0 to `most`, about `wanted` of them. */
function ticks(most, wanted, base = 10) {
  if (!(most > 0)) return [0];
  const rough = most / wanted;
  const power = base === 2 ? 2 ** Math.ceil(Math.log2(rough)) : 10 ** Math.floor(Math.log10(rough));
  const step = base === 2 ? power : [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  return Array.from({length: Math.floor(most / step + 1e-9) + 1}, (_, k) => k * step);
}

/** A line of what the colours mean, for the kinds that occur, and more entries behind them. */
function legend(kinds, ...more) {
  return el(
    "div",
    {class: "legend"},
    [...new Set(kinds)].sort().map((k) => entry("dot k-" + k, k)),
    ...more,
  );
}

/** An entry of a legend: a mark, and what it means. */
const entry = (mark, words) => el("span", {}, el("i", {class: mark}), words);

const opOfStep = (step) => model.view(model.passes[model.last].snapshot).byNumber.get(model.data.steps[step].op);
const kindOfStep = (step) => {
  const op = opOfStep(step);
  return op ? model.kindOf(op) : "movement";
};
const labelOfStep = (step) => {
  const op = opOfStep(step);
  return op ? model.label(op) : model.data.steps[step].name;
};

/** Lines for the tip over a step. */
function stepLines(step) {
  const op = opOfStep(step),
    r = model.data.profile && model.data.profile.rows[step];
  return [
    el("b", {}, labelOfStep(step)),
    op && op.results.length ? `%${op.results[0].name}: ${niceType(op.results[0].type)}` : "",
    op ? op.module || op.locs.join(", ") : "",
    r
      ? `${seconds(r.seconds)}, ${percent(r.seconds / model.total)} of the call` + (r.floor ? `, floor ${seconds(r.floor)}` : "")
      : "",
    r && r.operations ? `${digits(r.operations / r.seconds / 1e9)} GFLOP/s` + (r.bound ? `, ${r.bound} bound` : "") : "",
  ];
}

/** What a drawn step does under pointer and keys. */
function stepEvents(step) {
  const op = opOfStep(step);
  return {
    onmousemove: (e) => showTip(e, stepLines(step)),
    onmouseleave: hideTip,
    onclick: () => op && app.go({node: op.number, pass: model.last}),
    "data-step": step,
  };
}
