// The heat maps of attention to groups of tokens, and the list of all heads.

function drawHeats() {
  const stack = chosenStack(), measure = $("measure").value, known = (values) => values.filter((value) => value !== null);
  $("attention").hidden = !stack.groups.length;
  for (const name of document.querySelectorAll(".stack-name")) name.textContent = `${NUMBER.format(stack.inputs)} ${stack.inputs === 1 ? "input" : "inputs"} of ${isolate(stack.title)}`;
  $("heats").replaceChildren(...stack.groups.map((group) => heat(stack, group, measure, Math.max(1, ...known(group[measure])))));
}

/** Over how many inputs the means of a group are, where not all of them hold it. */
const overInputs = (stack, group) => (group.inputs === stack.inputs ? "" : make("span", { className: "soft" }, ` ${overText(stack, group)}`));

function meanOf(values) {
  const known = values.filter((value) => value !== null);
  return known.reduce((sum, value) => sum + value, 0) / (known.length || 1);
}

function heat(stack, group, measure, most) {
  const unit = 10, left = 20, top = 14, beside = 56, rows = stack.layers.length;
  const width = left + stack.columns * unit + beside, height = top + rows * unit + 2;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", style: `max-width:${Math.max(340, Math.min(560, 3 * width))}px`, "aria-label": `Attention to ${group.name} by layer and head` });
  const letter = Math.max(4.4, 0.019 * width), every = (count) => (count > 16 ? 4 : 1);
  stack.heads.forEach((head, n) => n % every(stack.columns) === 0 && picture.append(draw("text", { x: left + (n + 0.5) * unit, y: top - 4, "text-anchor": "middle", "font-size": letter }, head)));
  const means = stack.layers.map((_, row) => meanOf(group[measure].slice(row * stack.columns, (row + 1) * stack.columns)));
  stack.layers.forEach((layer, row) => {
    const values = group[measure].slice(row * stack.columns, (row + 1) * stack.columns), y = top + row * unit;
    if (row % every(rows) === 0) picture.append(draw("text", { x: left - 4, y: y + unit / 2, "text-anchor": "end", "dominant-baseline": "central", "font-size": letter }, layer));
    values.forEach((value, column) => {
      if (value === null) return;
      const rect = draw("rect", { x: left + column * unit, y, width: unit - 0.6, height: unit - 0.6, fill: `rgb(${hue(value / most).join(" ")})` });
      rect.dataset.cell = row * stack.columns + column;
      picture.append(rect);
    });
    const x = left + stack.columns * unit + 4, long = (32 * means[row]) / Math.max(1, ...means);
    picture.append(draw("rect", { class: "mean", x, y: y + 1.5, width: long, height: unit - 3.6 }));
    if (rows <= 24) picture.append(draw("text", { class: "figure", x: x + long + 2, y: y + unit / 2, "dominant-baseline": "central", "font-size": 0.85 * letter }, (means[row] / 1000).toFixed(2)));
  });
  const describeCell = (event) => {
    const n = event.target.dataset?.cell;
    if (n !== undefined) $("heat-reading").textContent = `Layer ${stack.of[n].layer}, head ${stack.of[n].head}: ${decimal(group[measure][n])} to ${isolate(group.name)}; a head that attends evenly: ${decimal(group.baseline[n])} to the group`;
  };
  picture.addEventListener("pointermove", describeCell);
  picture.addEventListener("click", (event) => event.target.dataset?.cell !== undefined && choose(Number(event.target.dataset.cell), true));
  return make("figure", {}, make("figcaption", {}, make("bdi", {}, group.name), overInputs(stack, group), make("small", {}, `white to dark: 0 to ${decimal(most)}`.replace("white to dark", dark.matches ? "dark to bright" : "white to dark"))), picture);
}

function columnsOf(stack) {
  const columnOf = (name, values) => ({ name, of: (cell) => values[cell.n], text: (cell) => decimal(values[cell.n]) });
  const columns = [
    { name: "layer", of: (cell) => cell.layer },
    { name: "head", of: (cell) => cell.head },
    { name: "pattern", of: (cell) => cell.first, word: true },
    { name: "share", of: (cell) => cell.share, text: (cell) => percent(1000 * cell.share) },
    { name: "95 % from", of: (cell) => stack.low[5 * cell.n + cell.first], text: (cell) => percent(stack.low[5 * cell.n + cell.first]) },
    { name: "to", of: (cell) => stack.high[5 * cell.n + cell.first], text: (cell) => percent(stack.high[5 * cell.n + cell.first]) },
    { name: "verdict", of: (cell) => (cell.stable ? "stable" : "mixed"), word: true },
    { name: "entropy", of: (cell) => stack.entropy[cell.n], text: (cell) => (stack.entropy[cell.n] / 1000).toFixed(2) },
    { name: "uncertain", of: (cell) => stack.uncertain[cell.n], text: (cell) => percent(stack.uncertain[cell.n]) },
  ];
  for (const { name, label } of measures) if (stack.measures[name]?.some((value) => value !== null)) columns.push(columnOf(label, stack.measures[name]));
  return [...columns, ...stack.groups.map((group) => columnOf(`to ${isolate(group.name)}${group.inputs === stack.inputs ? "" : `, ${overText(stack, group)}`}`, group.share))];
}

function drawList() {
  const stack = chosenStack(), columns = columnsOf(stack);
  const heads = columns.map((column, n) => {
    const button = make("button", { type: "button" }, column.name);
    button.addEventListener("click", () => sortBy(n));
    return make("th", { scope: "col", className: column.word ? "" : "number", "aria-sort": "none" }, button);
  });
  for (const cell of stack.of) {
    if (!cell.total) continue;
    cell.line = make("tr", {}, ...columns.map((column) => {
      const text = column.text ? column.text(cell) : `${column.of(cell)}`;
      return column.name === "pattern"
        ? make("td", {}, mark(cell.first), ` ${patterns[cell.first].name}`)
        : make("td", { className: column.word ? "" : "number" }, text);
    }));
    cell.line.addEventListener("click", () => choose(cell.n, true));
  }
  $("table").tHead.replaceChildren(make("tr", {}, ...heads));
  chosen.sort = null;
  sortBy(0);
}

function sortBy(n) {
  const stack = chosenStack(), column = columnsOf(stack)[n], texts = n > 2 && !column.word;
  chosen.down = chosen.sort === n ? !chosen.down : texts; // of figures the largest first
  chosen.sort = n;
  const order = (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * (chosen.down ? -1 : 1));
  const lines = stack.of.filter((cell) => cell.total).sort((a, b) => order(column.of(a), column.of(b)) || a.n - b.n);
  $("table").tBodies[0].replaceChildren(...lines.map((cell) => cell.line));
  [...$("table").tHead.rows[0].cells].forEach((head, place) => head.setAttribute("aria-sort", place !== n ? "none" : chosen.down ? "descending" : "ascending"));
}
