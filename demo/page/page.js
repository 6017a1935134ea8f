/* What Gradio lacks: drafts that outlive a reload, a server that is gone, Chinese for its own texts, alternative texts,
   and the browser's own controls on videos. */
window.dianjing = (({ texts, gradio_zh }) => {
  const isChinese = navigator.language.toLowerCase().startsWith("zh");
  const UNCHANGED = { __type__: "update" };
  const POLL_MS = 2000;
  const MAX_FAILURES = 2;
  const TABS = ["image", "animate", "video", "chat"];

  /* drafts: {name: value} as JSON in the browser's storage */
  const getKey = (model) => `dianjing-drafts-${model}`;
  let areDraftsLoaded = false;

  const loadDrafts = (model, names) => {
    areDraftsLoaded = true;
    try {
      const drafts = JSON.parse(localStorage.getItem(getKey(model))) ?? {};
      return names.map((name) => (name in drafts ? drafts[name] : UNCHANGED));
    } catch {
      return names.map(() => UNCHANGED);
    }
  };

  const saveDrafts = (model, names, values) => {
    if (!areDraftsLoaded) return [];
    try {
      localStorage.setItem(getKey(model), JSON.stringify(Object.fromEntries(names.map((name, i) => [name, values[i]]))));
    } catch {
      /* storage that is full or forbidden: nothing is kept */
    }
    return [];
  };

  const download = (file) => {
    if (!file) return [];
    const link = document.createElement("a");
    Object.assign(link, { href: file.url, download: file.orig_name });
    document.body.append(link);
    link.click();
    link.remove();
    return [];
  };

  /* A server that is gone: a tab that generates asks for its health. Gradio handles no event from then on, so the
     elements are changed here, and the page is loaded again once the server answers. */
  const isRunning = (tab) => document.querySelector(`#${tab}-cancel:not([disabled])`) !== null;
  let failures = 0;

  const showLost = (tab) => {
    const line = document.createElement("p");
    const textContent = texts.connection_lost[isChinese ? "zh" : "en"];
    Object.assign(line, { className: "dj-error", role: "alert", textContent });
    const status = document.querySelector(`#${tab}-status`);
    [...status.children].forEach((child) => child.classList.add("dj-hidden"));
    status.append(line);
    document.querySelector(`#${tab}-button`).disabled = false;
    document.querySelector(`#${tab}-cancel`).disabled = true;
  };

  const checkServer = async () => {
    const wasLost = failures >= MAX_FAILURES;
    const running = TABS.filter(isRunning);
    if (wasLost || running.length > 0) {
      const answers = await fetch("healthz", { cache: "no-store" }).then(() => true, () => false);
      failures = answers ? 0 : failures + 1;
      if (wasLost && answers) location.reload();
      if (failures >= MAX_FAILURES) running.forEach(showLost);
    }
    setTimeout(checkServer, POLL_MS);
  };

  /* Chinese for Gradio's own texts, which it has in English alone */
  const patterns = Object.entries(gradio_zh).map(([english, chinese]) => {
    const escaped = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\d\}/g, "([^]+?)");
    return [new RegExp(`^\\s*${escaped}\\s*$`), chinese];
  });
  const translate = (text) => {
    for (const [pattern, chinese] of patterns) {
      const match = pattern.exec(text);
      if (match) return chinese.replace(/\{(\d)\}/g, (_, index) => match[Number(index) + 1]);
    }
    return null;
  };
  const ATTRIBUTES = ["aria-label", "title", "alt", "placeholder"];
  const translateNode = (node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      /* what people have typed is never translated */
      if (node.parentElement?.closest(".message, .dj-caption, .dj-status, .gallery-item, textarea")) return;
      const chinese = /[A-Za-z]{3}/.test(node.data) ? translate(node.data) : null;
      if (chinese !== null) node.data = chinese;
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      for (const name of ATTRIBUTES) {
        const value = node.getAttribute(name);
        const chinese = value && /[A-Za-z]{3}/.test(value) ? translate(value) : null;
        if (chinese !== null) node.setAttribute(name, chinese);
      }
    }
  };
  const translateTree = (root) => {
    translateNode(root);
    root.querySelectorAll?.("*").forEach((element) => {
      translateNode(element);
      element.childNodes.forEach(translateNode);
    });
  };

  /* what is in view is described by its caption; a preview by the prompt that it is generated for */
  const describe = () => {
    for (const tab of TABS) {
      const prompt = document.querySelector(`#${tab}-prompt textarea, #${tab}-message textarea`)?.value ?? "";
      const text = document.querySelector(`#${tab}-caption .dj-caption-prompt`)?.textContent || prompt;
      document.querySelectorAll(`#${tab}-stage img`).forEach((image) => image.alt !== text && (image.alt = text));
      document.querySelectorAll(`#${tab}-video video`).forEach((video) => {
        if (video.getAttribute("aria-label") !== text) video.setAttribute("aria-label", text);
        if (!video.controls) video.controls = true;
      });
    }
    const canvas = document.querySelector("#animate-picture img");
    const description = document.querySelector("#animate-prompt textarea")?.value ?? "";
    if (canvas && canvas.alt !== description) canvas.alt = description;
  };

  const observe = () => {
    if (isChinese) translateTree(document.body);
    new MutationObserver((mutations) => {
      if (isChinese) {
        for (const { type, target, addedNodes } of mutations) {
          if (type === "childList") addedNodes.forEach((node) => (node.nodeType === Node.TEXT_NODE ? translateNode(node) : translateTree(node)));
          else translateNode(target);
        }
      }
      describe();
    }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: [...ATTRIBUTES, "src"] });
    setTimeout(checkServer, POLL_MS);
  };
  if (document.body) observe();
  else document.addEventListener("DOMContentLoaded", observe);

  return { loadDrafts, saveDrafts, download };
})(DIANJING_TEXTS);
