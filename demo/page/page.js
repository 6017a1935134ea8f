/* What Gradio lacks: drafts that outlive a reload, a server that is gone, Chinese for its own texts, alternative texts,
   and the browser's own controls on videos. */
window.dianjing = (({ texts, gradio_zh }) => {
  const isChinese = navigator.language.toLowerCase().startsWith("zh");
  const UNCHANGED = { __type__: "update" };
  const POLL_MS = 2000;
  const MAX_FAILURES = 2;
  const TABS = ["image", "edit", "animate", "video", "chat"];

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

  /* The brush of the Edit tab: strokes in pixels of the image over a canvas of its size; the server paints the mask. */
  const MIN_BRUSH_CANVAS_PX = 512;

  const connectBrush = (element, props, trigger, watch) => {
    let value = {}, current = null;
    const picture = new Image();
    const getCanvas = () => {
      const host = element.querySelector(".dj-brush");
      if (!host.querySelector("canvas")) host.append(document.createElement("canvas"));
      return host.querySelector("canvas");
    };
    const draw = () => {
      const canvas = getCanvas();
      canvas.hidden = !value.image;
      if (!value.image || !picture.complete) return;
      const scale = Math.max(1, Math.ceil(MIN_BRUSH_CANVAS_PX / Math.max(value.width, value.height)));
      canvas.width = value.width * scale;
      canvas.height = value.height * scale;
      const paint = document.createElement("canvas");
      Object.assign(paint, { width: canvas.width, height: canvas.height });
      const pen = paint.getContext("2d");
      Object.assign(pen, { lineCap: "round", lineJoin: "round", strokeStyle: "#2f6fed", fillStyle: "#2f6fed" });
      for (const { points, radius } of [...value.strokes, ...(current ? [current] : [])]) {
        pen.lineWidth = 2 * radius * scale;
        pen.beginPath();
        points.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x * scale, y * scale));
        pen.stroke();
        pen.beginPath();
        pen.arc(points[0][0] * scale, points[0][1] * scale, radius * scale, 0, 2 * Math.PI);
        pen.fill();
      }
      const view = canvas.getContext("2d");
      view.imageSmoothingEnabled = scale === 1;
      view.drawImage(picture, 0, 0, canvas.width, canvas.height);
      view.globalAlpha = 0.55;
      view.drawImage(paint, 0, 0);
    };
    const getPoint = (event) => {
      const box = getCanvas().getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * value.width, ((event.clientY - box.top) / box.height) * value.height];
    };
    const load = () => {
      try {
        value = JSON.parse(props.value || "{}");
      } catch {
        value = {};
      }
      current = null;
      if (value.image && picture.src !== value.image) picture.src = value.image;
      draw();
    };
    picture.addEventListener("load", draw);
    element.addEventListener("pointerdown", (event) => {
      if (event.target.tagName !== "CANVAS" || !value.image) return;
      event.preventDefault();
      event.target.setPointerCapture(event.pointerId);
      current = { points: [getPoint(event)], radius: value.radius };
      draw();
    });
    element.addEventListener("pointermove", (event) => {
      if (!current) return;
      current.points.push(getPoint(event));
      draw();
    });
    element.addEventListener("pointerup", () => {
      if (!current) return;
      value.strokes.push(current);
      current = null;
      draw();
      trigger("input", { strokes: JSON.stringify(value.strokes) });
    });
    watch("value", load);
    load();
  };

  /* Paths on the Animate tab: a pointer that is dragged over the picture gives points in pixels of the displayed image;
     one that hardly moves is a click, which Gradio handles. The server draws the smooth curve. */
  const MIN_DRAG_PX = 8;
  /* The server shows pictures at least this large (MIN_DISPLAY_PX of canvas.py). A smaller one is an upload that it has
     not answered yet: positions on it would be taken for those on the enlarged picture. */
  const MIN_DISPLAY_PX = 512;

  const connectDrag = (selector, trigger) => {
    let drag = null, isClickDragged = false;
    const overlay = document.createElement("canvas");
    overlay.className = "dj-drag";
    const getImage = (target) => (target.tagName === "IMG" && target.closest(selector) ? target : null);
    const isShown = (image) => Math.max(image.naturalWidth, image.naturalHeight) >= MIN_DISPLAY_PX;
    const getPoint = ({ clientX, clientY }, image) => {
      const box = image.getBoundingClientRect();
      const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
      const x = (clientX - box.left - (box.width - image.naturalWidth * scale) / 2) / scale;
      const y = (clientY - box.top - (box.height - image.naturalHeight * scale) / 2) / scale;
      return [x, y];
    };
    const clamp = (value, maximum) => Math.min(Math.max(value, 0), maximum);
    const isInside = ([x, y], image) => x >= 0 && y >= 0 && x < image.naturalWidth && y < image.naturalHeight;
    const draw = () => {
      const box = drag.image.getBoundingClientRect();
      Object.assign(overlay.style, { left: `${box.left + scrollX}px`, top: `${box.top + scrollY}px` });
      Object.assign(overlay, { width: box.width, height: box.height });
      document.body.append(overlay);
      const pen = overlay.getContext("2d");
      for (const [strokeStyle, lineWidth] of [["#fff", 6], ["#cf5742", 3]]) {
        Object.assign(pen, { strokeStyle, lineWidth, lineCap: "round", lineJoin: "round" });
        pen.beginPath();
        drag.trail.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x - box.left, y - box.top));
        pen.stroke();
      }
    };
    const stop = () => {
      drag = null;
      overlay.remove();
    };
    document.addEventListener("pointerdown", (event) => {
      const image = getImage(event.target);
      if (!image || !isShown(image) || event.button !== 0 || !event.isPrimary) return;
      if (!isInside(getPoint(event, image), image)) return;
      image.setPointerCapture(event.pointerId);
      drag = { image, points: [getPoint(event, image)], trail: [[event.clientX, event.clientY]], isMoving: false };
    });
    document.addEventListener("pointermove", (event) => {
      if (!drag || !event.isPrimary) return;
      const [x, y] = getPoint(event, drag.image);
      drag.points.push([clamp(x, drag.image.naturalWidth - 1), clamp(y, drag.image.naturalHeight - 1)]);
      drag.trail.push([event.clientX, event.clientY]);
      const [left, top] = drag.trail[0];
      drag.isMoving ||= Math.hypot(event.clientX - left, event.clientY - top) >= MIN_DRAG_PX;
      if (drag.isMoving) draw();
    });
    document.addEventListener("pointerup", () => {
      if (drag?.isMoving) {
        isClickDragged = true;
        setTimeout(() => (isClickDragged = false));
        trigger("input", { points: JSON.stringify(drag.points) });
      }
      stop();
    });
    document.addEventListener("pointercancel", stop);
    const stopClick = (event) => {
      const image = getImage(event.target);
      if (isClickDragged || (image && !isShown(image))) event.stopImmediatePropagation();
    };
    window.addEventListener("click", stopClick, true);
    document.addEventListener("dragstart", (event) => getImage(event.target) && event.preventDefault());
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

  return { loadDrafts, saveDrafts, download, connectBrush, connectDrag };
})(DIANJING_TEXTS);
