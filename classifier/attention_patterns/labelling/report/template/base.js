"use strict";
// The numbers of the page, the reader's choices, and small helpers. Fractions are whole thousandths, null where absent.

const report = JSON.parse(document.getElementById("data").textContent);
const { patterns, measures, stacks } = report;
const $ = (id) => document.getElementById(id);
const chosen = { stack: 0, cell: 0, example: 0, view: "patterns", gridExample: 0, sort: "layer", down: false };
const onlyPatterns = new Set(); // pressed in the legend; all are shown when none is

const NUMBER = new Intl.NumberFormat("en");

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

const percent = (thousandths, digits = 1) => (thousandths === null ? "–" : (thousandths / 10).toFixed(digits) + "\u00a0%");
const decimal = (thousandths) => (thousandths === null ? "–" : (thousandths / 1000).toFixed(3));
const overText = (stack, group) => `over ${NUMBER.format(group.inputs)} of ${NUMBER.format(stack.inputs)} inputs`;
const isolate = (text) => `\u2068${text}\u2069`; // so that right-to-left names leave the sentence in order

for (const stack of stacks) {
  stack.columns = stack.heads.length;
  stack.cells = stack.layers.length * stack.columns;
  stack.of = Array.from({ length: stack.cells }, (_, n) => {
    const counts = stack.counts.slice(5 * n, 5 * n + 5);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const ranked = [0, 1, 2, 3, 4].sort((a, b) => counts[b] - counts[a] || a - b);
    return {
      n, counts, total, first: ranked[0], second: ranked[1], stable: stack.stable[n] === "1",
      layer: stack.layers[Math.floor(n / stack.columns)], head: stack.heads[n % stack.columns],
      share: total ? counts[ranked[0]] / total : 0,
    };
  });
}

const chosenStack = () => stacks[chosen.stack];
const mark = (pattern, tag = "i") => make(tag, { className: "mark", style: `background:${patterns[pattern].colour}` }, patterns[pattern].letter);

function describe(cell) {
  const stack = chosenStack(), many = stack.inputs > 1;
  if (!cell.total) return `Layer ${cell.layer}, head ${cell.head}: not labelled`;
  const share = many ? ` in ${percent(1000 * cell.share, 0)} of inputs, ${cell.stable ? "stable" : "mixed"}` : "";
  return `Layer ${cell.layer}, head ${cell.head}: ${patterns[cell.first].name}${share}`;
}
