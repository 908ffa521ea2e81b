// The chosen head: its verdict, shares, measures, and its map on a few inputs.

function bars(rows) {
  const box = make("div", { className: "bars" });
  for (const { pattern, part, low, high, text, small } of rows) {
    const track = make("div", { className: "track" }, make("b", { style: `width:${100 * part}%;background:${patterns[pattern].colour}` }));
    if (low !== undefined && low !== null) track.append(make("i", { style: `left:${low / 10}%;width:${(high - low) / 10}%` }));
    const value = make("span", { className: "value" }, text);
    if (small) value.append(make("small", {}, small));
    box.append(mark(pattern), track, value);
    track.title = patterns[pattern].name;
  }
  return box;
}

function pairs(list) {
  const box = make("dl", { className: "pairs" });
  for (const [name, value, small] of list) {
    const description = make("dd", {}, value);
    if (small) description.append(make("small", {}, ` ${small}`));
    box.append(make("div", {}, make("dt", { title: name }, name), description));
  }
  return box;
}

function verdictOf(cell, stack) {
  const name = patterns[cell.first].name, at = 5 * cell.n + cell.first, uncertain = stack.uncertain[cell.n];
  if (stack.inputs < 2) return `${name}${uncertain ? ", but the net is uncertain" : ""}. One input does not show stability.`;
  const interval = `${percent(stack.low[at]).slice(0, -2)}–${percent(stack.high[at])}`;
  return `${name} in ${percent(1000 * cell.share)} of ${NUMBER.format(cell.total)} inputs (95 % interval ${interval}). ` +
    `Pattern entropy ${(stack.entropy[cell.n] / 1000).toFixed(2)} bits; uncertain in ${percent(uncertain)}.`;
}

function drawPanel() {
  const stack = chosenStack(), cell = stack.of[chosen.cell], panel = $("panel");
  const badge = make("span", { className: "badge" }, mark(cell.first), patterns[cell.first].name);
  const title = make("div", { className: "title" }, make("h3", {}, `Layer ${cell.layer}, head ${cell.head}`));
  if (!cell.total) {
    panel.replaceChildren(title, make("p", { className: "soft" }, "Not labelled."));
    return;
  }
  title.append(badge);
  if (stack.inputs > 1) title.append(make("span", { className: "soft" }, cell.stable ? "stable" : "mixed"));
  const shares = patterns.map((_, n) => {
    const low = stack.low[5 * cell.n + n], high = stack.high[5 * cell.n + n];
    const part = cell.counts[n] / cell.total;
    return { pattern: n, part, low, high, text: percent(1000 * part), small: `${percent(low, 0).slice(0, -2)}–${percent(high, 0)}` };
  });
  const means = measures.filter(({ name }) => stack.measures[name]?.[cell.n] != null)
    .map(({ name, label, unit }) => [label, decimal(stack.measures[name][cell.n]), unit === "share" ? "" : unit]);
  const groups = stack.groups.filter((group) => group.share[cell.n] !== null)
    .map((group) => [`to ${isolate(group.name)}`, decimal(group.share[cell.n]), `even: ${decimal(group.baseline[cell.n])}${group.inputs === stack.inputs ? "" : `, ${overText(stack, group)}`}`]);
  const parts = [title, make("p", { className: "verdict" }, verdictOf(cell, stack))];
  if (stack.examples.length) parts.push(make("h4", {}, stack.examples.length > 1 ? `On ${stack.examples.length} of the inputs` : "On one of the inputs"), examplePicker(), make("div", { id: "example" }));
  if (stack.inputs > 1) parts.push(make("h4", {}, "Patterns over all inputs"), bars(shares));
  parts.push(make("h4", {}, stack.inputs > 1 ? "Measures, mean over inputs" : "Measures"), pairs([...means, ...groups]));
  if (!stack.examples.length) parts.push(make("p", { className: "soft" }, "No maps were kept of these inputs, or there was no room for them."));
  panel.replaceChildren(...parts);
  drawExample();
}

function examplePicker() {
  const stack = chosenStack(), box = make("div", { className: "thumbs", role: "group", "aria-label": "Inputs" });
  stack.examples.forEach((example, n) => {
    const pattern = example.patterns[chosen.cell];
    const canvas = make("canvas", { style: "image-rendering:pixelated" });
    const name = pattern < 0 ? "not labelled" : patterns[pattern].name;
    const button = make("button", { type: "button", title: `${isolate(example.id)}: ${name}`, "aria-label": `Input ${example.id}: ${name}`, "aria-pressed": String(n === chosen.example) }, canvas);
    if (pattern >= 0) button.append(make("i", { style: `background:${patterns[pattern].colour}` }, patterns[pattern].letter));
    button.addEventListener("click", () => {
      chosen.example = n;
      for (const [place, other] of [...box.children].entries()) other.setAttribute("aria-pressed", String(place === n));
      drawExample();
    });
    shadesOfHead(example, stack, chosen.cell).then((shades) => paint(canvas, shades, example.cells));
    box.append(button);
  });
  return box;
}

async function drawExample() {
  const stack = chosenStack(), n = chosen.cell, example = stack.examples[chosen.example];
  if (!example || example.patterns[n] < 0) return $("example")?.replaceChildren();
  const read = make("p", { className: "read", role: "status" }, make("span", { className: "soft" }, "Point at the map, or focus it and use the arrow keys, to read its values."));
  const several = example.length > example.cells;
  const picture = await largeMap(example, stack, n, (row, column, attention) => {
    const nameOf = (cell) => [make("b", {}, make("bdi", {}, tokenAt(example, cell) ?? "position")), ` (${positionsOf(example, cell)})`];
    read.replaceChildren("query ", ...nameOf(row), " → key ", ...nameOf(column), ": ", make("b", {}, `${several ? "at most " : ""}≈ ${formatAttention(attention)}`));
  });
  if (chosenStack() !== stack || chosen.cell !== n || stack.examples[chosen.example] !== example) return;
  const pattern = example.patterns[n], probabilities = patterns.map((_, k) => example.probabilities[5 * n + k]);
  const summary = make("p", { className: "case" }, make("bdi", {}, make("b", {}, example.id)), ` · ${NUMBER.format(example.length)} tokens · ${patterns[pattern].name}`);
  if (example.uncertain[n] === "1") summary.append(" · ", make("b", { className: "unsure" }, "uncertain"));
  const scale = make("canvas");
  const values = measures.map(({ label, unit }, k) => ({ label, unit, value: example.evidence[measures.length * n + k] }));
  const evidence = values.filter(({ value }) => value !== null);
  $("example").replaceChildren(
    summary, make("div", { className: "map" }, picture), scaleBar(scale, example), read,
    make("h4", {}, "The net's answer for this map"),
    bars(probabilities.map((part, k) => ({ pattern: k, part: part / 1000, text: (part / 1000).toFixed(3) }))),
    make("p", { className: "soft" }, evidence.map(({ label, unit, value }) => `${label} ${decimal(value)}${unit === "share" ? "" : ` ${unit}`}`).join(" · ")),
    ...example.warnings.map((warning) => make("p", { className: "soft" }, make("bdi", {}, warning))),
  );
}

function scaleBar(canvas, example) {
  canvas.width = 128;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  for (let x = 0; x < 128; x++) {
    context.fillStyle = `rgb(${hue(x / 127).join(" ")})`;
    context.fillRect(x, 0, 1, 1);
  }
  const middle = 2.5 / example.length;
  return make("div", { className: "scale" }, "0", canvas, `1; half-way: ${middle < 0.01 ? middle.toPrecision(1) : middle.toFixed(2)}`);
}
