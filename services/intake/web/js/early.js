// Runs before the page is drawn, so that it never flashes in the wrong colours or language.
(() => {
  const root = document.documentElement;
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const theme = kept("spotreel.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const lang = kept("spotreel.lang") || (navigator.languages || [navigator.language]).find((one) => /^(zh|en)\b/i.test(one)) || "en";
  root.lang = /^zh/i.test(lang) ? "zh-CN" : "en";
})();
