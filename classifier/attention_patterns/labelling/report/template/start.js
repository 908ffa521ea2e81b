// Choosing a stack and a head, and the first picture of the page.

function choose(n, byHand) {
  const stack = chosenStack(), cell = stack.of[n];
  for (const other of stack.of) {
    other.button.setAttribute("aria-selected", String(other === cell));
    other.button.tabIndex = other === cell ? 0 : -1;
    other.line?.classList.toggle("chosen", other === cell);
  }
  for (const rect of document.querySelectorAll("#heats rect[data-cell]")) {
    rect.classList.toggle("chosen", Number(rect.dataset.cell) === n);
    if (Number(rect.dataset.cell) === n) rect.parentNode.append(rect); // its outline lies over its neighbours then
  }
  chosen.cell = n;
  drawPanel();
  if (!byHand) return;
  history.replaceState(null, "", `#stack=${chosen.stack}&layer=${cell.layer}&head=${cell.head}`);
  const box = $("panel").getBoundingClientRect();
  if (box.top > innerHeight - 80 || box.bottom < 80) $("panel").scrollIntoView({ block: "start" });
}

function showStack(n) {
  const before = chosenStack().of[chosen.cell];
  chosen.stack = n;
  chosen.example = chosen.gridExample = 0;
  const stack = chosenStack(), same = stack.of.findIndex((cell) => cell.total && cell.layer === before.layer && cell.head === before.head);
  $("stack").value = n;
  $("stack-facts").textContent = `${stack.layers.length} layers × ${stack.columns} heads, ${NUMBER.format(stack.inputs)} input${stack.inputs === 1 ? "" : "s"} of ${stack.length} tokens on average`;
  $("grid-example").replaceChildren(...stack.examples.map((example, place) => make("option", { value: place }, example.id)));
  document.querySelector("[data-view='maps']").hidden = !stack.examples.length;
  drawGrid();
  drawHeats();
  drawList();
  fitFilters();
  choose(same < 0 ? stack.of.findIndex((cell) => cell.total) : same, false);
}

function start() {
  $("stack").replaceChildren(...stacks.map((stack, n) => make("option", { value: n }, stack.title)));
  if (report.left) $("stack").append(make("option", { disabled: true }, `${report.left} more have no room on this page`));
  document.querySelector(".stack").hidden = stacks.length + report.left < 2;
  startFilters();
  $("stack").addEventListener("input", () => showStack(Number($("stack").value)));
  $("measure").addEventListener("input", () => drawHeats());
  dark.addEventListener("change", () => {
    drawHeats();
    drawMapsInGrid();
    drawPanel();
  });
  const link = new URLSearchParams(location.hash.slice(1)), stack = Number(link.get("stack") ?? 0);
  showStack(stacks[stack] ? stack : 0);
  const cell = chosenStack().of.find((head) => `${head.layer}` === link.get("layer") && `${head.head}` === link.get("head"));
  if (cell) choose(cell.n, false);
}

if (stacks.length) start();
