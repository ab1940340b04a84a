// Keeps a page fresh: fetches it again and replaces its main part, leaving
// what the reader has opened, selected and scrolled as it is.
(function () {
  "use strict";
  function look() {
    var main = document.querySelector("main[data-refresh]");
    if (!main) return;
    var seconds = Number(main.dataset.refresh) || 5;
    setTimeout(function () {
      if (document.hidden || String(getSelection())) return look();
      fetch(location.href).then(function (r) { return r.text(); }).then(function (text) {
        var fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
        if (!fresh) return;
        main.querySelectorAll("details[id][open]").forEach(function (d) {
          var same = fresh.querySelector("#" + CSS.escape(d.id));
          if (same) same.open = true;
        });
        var log = main.querySelector(".log");
        var top = log ? log.scrollTop : 0;
        main.replaceWith(fresh);
        var newLog = fresh.querySelector(".log");
        if (newLog) newLog.scrollTop = top;
      }).catch(function () {}).finally(look);
    }, seconds * 1000);
  }
  look();
})();
