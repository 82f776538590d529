// Starts all parts.

document.body.append(tip, make("div", { id: "announcement", class: "offscreen", role: "status", "aria-live": "polite" }));
makeExplorer();
enhanceTables();
enhancePlots();
addEventListener("hashchange", showRoute);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.getElementById("trial").hidden) location.hash = "#explore";
});
showRoute();
