"use strict";
// Making elements, writing numbers, unpacking data. Nothing here knows what a graph is.

/** An element: el("a", {class: "x", href: "#", onclick: f}, "text", child, ...). Text is text, never markup. */
function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** Replace what is in a node; lists are flattened, and what is null or false is left out. */
function put(host, ...children) {
  host.replaceChildren();
  return fill(host, {}, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

const byId = (id) => document.getElementById(id);

/** What lies compressed in a script element of the page. */
async function unpack(id) {
  const text = atob(byId(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// Numbers ----------------------------------------------------------------------------------------
/** Three digits that count. */
function digits(x) {
  if (x === 0) return "0";
  const a = Math.abs(x);
  return a >= 100 ? x.toFixed(0) : a >= 10 ? x.toFixed(1) : a >= 1 ? x.toFixed(2) : x.toPrecision(2);
}

function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0";
  if (s >= 1) return digits(s) + " s";
  return s >= 1e-3 ? digits(1e3 * s) + " ms" : s >= 1e-6 ? digits(1e6 * s) + " µs" : digits(1e9 * s) + " ns";
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let k = 0;
  while (n >= 1024 && k < units.length - 1) {
    n /= 1024;
    k++;
  }
  return (k ? digits(n) : n) + " " + units[k];
}

function count(n) {
  for (const [unit, size] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e4],
  ]) {
    if (n >= size) return digits(n / (unit === "k" ? 1e3 : size)) + " " + unit;
  }
  return String(n);
}

const percent = (x) => (x >= 0.0995 ? (100 * x).toFixed(0) : (100 * x).toFixed(1)) + " %";
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** A type as people write it: f32[1, 64, 56, 56] NHWC+1 as 1×64×56×56 f32 · NHWC+1. */
function niceType(text) {
  const m = /^([a-z0-9_]+)\[([^\]]*)\](.*)$/.exec(text);
  if (!m) return text;
  const layout = m[3].trim();
  return (m[2] ? m[2].split(", ").join("×") + " " : "scalar ") + m[1] + (layout ? " · " + layout.replace(/^@/, "") : "");
}

/** What a layout such as NHWC+1/36 means. */
function layoutWords(text) {
  const m = /([NCDHW]{3,5})(?:\+(\d+))?(?:\/(\d+))?/.exec(text.replace(/^[a-z0-9_]+\[[^\]]*\]/, ""));
  if (!m) return "row-major";
  const parts = [m[1].endsWith("C") ? "channels last" : "in the order " + m[1].split("").join(", ")];
  if (m[2]) parts.push(`a border of ${plural(Number(m[2]), "zero")} around the image`);
  if (m[3]) parts.push(`${m[3]} elements from pixel to pixel`);
  return `${m[0]}: ${parts.join(", ")}`;
}

// The tip under the pointer ----------------------------------------------------------------------
function showTip(event, ...lines) {
  const tip = byId("tip");
  tip.replaceChildren(
    ...lines
      .flat()
      .filter(Boolean)
      .map((line) => el("div", {}, line)),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 14, innerWidth - box.width - 8),
    y = event.clientY + 16;
  tip.style.left = Math.max(8, x) + "px";
  tip.style.top = (y + box.height > innerHeight - 8 ? event.clientY - box.height - 12 : y) + "px";
}

function hideTip() {
  byId("tip").hidden = true;
}
