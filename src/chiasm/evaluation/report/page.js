// Everything is on the page without this script; it adds the filters, and unfolds what is folded before printing.
for (const gallery of document.querySelectorAll(".gallery")) {
  const filter = gallery.querySelector(".filter");
  const group = filter.querySelector("select");
  const count = filter.querySelector("output");
  const cards = [...gallery.querySelectorAll(".card")];
  const apply = () => {
    const outcome = filter.querySelector("input:checked").value;
    for (const card of cards) {
      const shown = (outcome === "" || card.dataset.outcome === outcome)
        && (!group || group.value === "" || card.dataset.group === group.value.slice(1));
      card.hidden = !shown;
    }
    count.textContent = `${cards.filter((card) => !card.hidden).length} shown`;
  };
  filter.hidden = false;
  filter.addEventListener("change", apply);
  apply();
}
const folded = () => document.querySelectorAll("details:not([open])");
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...folded()];
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
});
