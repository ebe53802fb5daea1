// Print what is folded, too.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((details) => (details.open = true));
});
window.addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));

// A figure opens by itself, where a phone can enlarge it.
window.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll(".bd-article :is(figure, .cell_output) img")) {
    if (image.closest("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.className = "picture";
    image.replaceWith(link);
    link.append(image);
  }
});
