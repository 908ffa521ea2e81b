// The grid of heads, and the filters over it and over the list.

const attentionTo = (stack, name) => stack.groups.find((group) => group.name === name)?.share;

function passes(cell) {
  const stack = chosenStack(), verdict = $("verdict").value, least = 10 * Number($("least").value);
  if (!cell.total) return false;
  if (onlyPatterns.size && !onlyPatterns.has(cell.first)) return false;
  if (verdict && cell.stable !== (verdict === "1")) return false;
  if ($("from").value !== "" && cell.layer < Number($("from").value)) return false;
  if ($("to").value !== "" && cell.layer > Number($("to").value)) return false;
  return !least || (attentionTo(stack, $("group").value)?.[cell.n] ?? -1) >= least;
}

function applyFilters() {
  const stack = chosenStack();
  let count = 0;
  for (const cell of stack.of) {
    cell.passes = passes(cell);
    count += cell.passes;
    cell.button?.classList.toggle("dim", cell.total > 0 && !cell.passes);
    if (cell.line) cell.line.hidden = !cell.passes;
  }
  const all = stack.of.filter((cell) => cell.total).length;
  $("least-value").textContent = `${$("least").value} %`;
  $("count").textContent = count === all ? `${NUMBER.format(all)} heads` : `${NUMBER.format(count)} of ${NUMBER.format(all)} heads`;
  $("reset").hidden = count === all && !onlyPatterns.size;
}

/** Gives the filters the layers and token groups of the stack; what was pressed before stays pressed. */
function fitFilters() {
  const { layers, groups } = chosenStack();
  $("group").replaceChildren(...groups.map((group) => make("option", { value: group.name }, group.name)));
  $("least-part").hidden = !groups.length;
  Object.assign($("least"), { value: 0 });
  for (const [id, layer] of [["from", layers[0]], ["to", layers.at(-1)]]) {
    Object.assign($(id), { min: layers[0], max: layers.at(-1), value: layer });
  }
  applyFilters();
}

function resetFilters() {
  onlyPatterns.clear();
  for (const chip of document.querySelectorAll(".chip")) chip.setAttribute("aria-pressed", "false");
  Object.assign($("verdict"), { value: "" });
  fitFilters();
}

function cellButton(cell) {
  const stack = chosenStack(), { colour, letter } = patterns[cell.first];
  const button = make("button", { type: "button", role: "gridcell", className: "cell", tabIndex: -1, "aria-label": describe(cell), title: describe(cell) });
  cell.button = button;
  if (!cell.total) {
    button.classList.add("none");
    return button;
  }
  const split = !cell.stable && cell.counts[cell.second] > 0 && stack.inputs > 1;
  button.style.setProperty("--colour", colour);
  button.style.background = split ? `linear-gradient(135deg, ${colour} 66%, ${patterns[cell.second].colour} 66%)` : colour;
  button.append(make("span", {}, letter));
  button.addEventListener("click", () => choose(cell.n, true));
  return button;
}

function drawGrid() {
  const stack = chosenStack(), grid = $("grid"), many = stack.columns > 20;
  const side = many ? 24 : stack.columns > 14 ? 40 : 56, least = many ? 17 : 22;
  grid.style.setProperty("--letter", many ? "11px" : "16px");
  grid.style.setProperty("--whole", `${40 + stack.columns * (side + 2)}px`);
  grid.style.setProperty("--least", `${40 + stack.columns * (least + 2)}px`);
  grid.style.gridTemplateColumns = `34px repeat(${stack.columns}, minmax(${least}px, 1fr))`;
  grid.className = many ? "many" : "";
  const top = make("div", { role: "row" }, make("span", { role: "columnheader", className: "axis side", title: "layer / head" }, "l / h"));
  top.append(...stack.heads.map((head, n) => make("span", { role: "columnheader", className: "axis", "aria-label": `head ${head}` }, many && n % 4 ? "" : `${head}`)));
  const rows = stack.layers.map((layer, n) => {
    const row = make("div", { role: "row" }, make("span", { role: "rowheader", className: "axis side", "aria-label": `layer ${layer}` }, `${layer}`));
    row.append(...stack.of.slice(n * stack.columns, (n + 1) * stack.columns).map(cellButton));
    return row;
  });
  grid.replaceChildren(top, ...rows);
  drawLegend();
  drawMapsInGrid();
}

function drawLegend() {
  const stack = chosenStack(), counts = [0, 0, 0, 0, 0];
  for (const cell of stack.of) if (cell.total) counts[cell.first]++;
  document.querySelectorAll(".chip").forEach((chip, n) => (chip.querySelector("b").textContent = NUMBER.format(counts[n])));
}

async function drawMapsInGrid() {
  const stack = chosenStack(), example = stack.examples[chosen.gridExample], maps = chosen.view === "maps" && example;
  $("grid").classList.toggle("maps", Boolean(maps));
  $("view-example").hidden = !maps;
  $("grid-key").textContent = maps
    ? "Each cell shows the head's map of this input, its mark the pattern found in it."
    : stack.inputs > 1
      ? "A cell is a head, coloured by its commonest pattern; the corner of a mixed head shows its second."
      : "A cell is a head, coloured by its pattern.";
  for (const cell of stack.of) {
    if (!cell.total) continue;
    cell.button.querySelector("canvas")?.remove();
    const shown = maps && example.patterns[cell.n] >= 0 ? example.patterns[cell.n] : cell.first;
    cell.button.querySelector("span").textContent = patterns[shown].letter;
    cell.button.style.setProperty("--colour", patterns[shown].colour);
    if (!maps) continue;
    const shades = await shadesOfHead(example, stack, cell.n);
    if (chosen.view !== "maps" || chosenStack() !== stack || stack.examples[chosen.gridExample] !== example) return;
    const canvas = make("canvas", { style: "image-rendering:pixelated" });
    paint(canvas, shades, example.cells);
    cell.button.querySelector("canvas")?.remove();
    cell.button.prepend(canvas);
  }
}

function moveInGrid(event) {
  const stack = chosenStack(), from = stack.of.findIndex((cell) => cell.button === event.target);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -stack.columns, ArrowDown: stack.columns }[event.key];
  if (from < 0 || !step) return;
  event.preventDefault();
  const column = from % stack.columns;
  if ((step === -1 && column === 0) || (step === 1 && column === stack.columns - 1)) return;
  const to = stack.of[from + step];
  if (!to) return;
  choose(to.n, false);
  to.button.focus();
}

function startFilters() {
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const pattern = Number(chip.dataset.pattern);
      if (!onlyPatterns.delete(pattern)) onlyPatterns.add(pattern);
      chip.setAttribute("aria-pressed", String(onlyPatterns.has(pattern)));
      applyFilters();
    });
  }
  for (const id of ["verdict", "from", "to", "group", "least"]) $(id).addEventListener("input", applyFilters);
  $("reset").addEventListener("click", resetFilters);
  $("grid").addEventListener("keydown", moveInGrid);
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      chosen.view = button.dataset.view;
      for (const other of document.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", String(other === button));
      drawMapsInGrid();
    });
  }
  $("grid-example").addEventListener("input", () => {
    chosen.gridExample = Number($("grid-example").value);
    drawMapsInGrid();
  });
}
