// Draws what "Show Prompt" and the nodes with a text result found: tokens in two shades, scores, candidates.
// All text arrives as data and is set as text, never as HTML.
import { app } from "../../../scripts/app.js";

const SHADES = ["#bfe9f2", "#fbe7a1"];
const WITH_TEXT = new Set([
  "HardPromptsEvidence",
  "HardPromptsInspectEmbedding",
  "HardPromptsSave",
  "HardPromptsSaveCaptions",
  "HardPromptsPush",
  "HardPromptsWeightWords",
]);

function element(tag, style, text) {
  const made = document.createElement(tag);
  made.style.cssText = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawTable([headings, ...rows]) {
  const table = element("table", "border-collapse:collapse;font-size:11px;margin:6px 0");
  const filled = headings.map((_, column) => rows.some((row) => row[column]));
  [headings, ...rows].forEach((cells, index) => {
    const line = element("tr", index ? "" : "opacity:.75");
    cells.forEach((cell, column) => {
      const align = column >= 2 && column <= 4 ? "right" : "left";
      if (filled[column]) line.append(element("td", `padding:1px 10px 1px 0;text-align:${align};vertical-align:bottom`, cell));
    });
    table.append(line);
  });
  return table;
}

function drawPrompt(prompt) {
  const box = element("div", "margin:0 0 10px");
  const line = element("div", "font-family:monospace;font-size:14px;line-height:1.7;word-break:break-word");
  line.append(element("span", "opacity:.65;white-space:pre-wrap", prompt.before));
  prompt.tokens.forEach((token, index) => {
    const shade = SHADES[index % 2];
    const gap = prompt.gaps[index] ? 6 : 1; // pixels: a space of the text, or two tokens of one word
    const style = `background:${shade};color:#111;border-radius:3px;padding:1px 3px;display:inline-block`;
    const piece = element("span", `${style};margin-right:${gap}px`, token);
    if (index < prompt.attributions.length) {
      piece.title = `contributes ${prompt.attributions[index].toFixed(3)}`;
    }
    line.append(piece);
  });
  line.append(element("span", "opacity:.65;white-space:pre-wrap", prompt.after));
  const score = [`${prompt.unit} ${prompt.score.toFixed(3)}`, prompt.fluency, prompt.model, prompt.method];
  box.append(line);
  if (prompt.weighted) box.append(element("div", "font-family:monospace;font-size:12px", prompt.weighted));
  box.append(element("div", "opacity:.75;font-size:11px;margin-top:2px", score.filter(Boolean).join(" · ")));
  for (const notice of prompt.notices) box.append(element("div", "opacity:.75;font-size:11px", notice));
  if (prompt.evidence.length) {
    box.append(drawTable(prompt.evidence));
    box.append(element("div", "opacity:.75;font-size:11px", prompt.truth));
  }
  for (const other of prompt.candidates) {
    box.append(element("div", "font-family:monospace;font-size:11px", `${other.score.toFixed(3)}  ${other.text}`));
  }
  if (prompt.ranking) box.append(element("div", "opacity:.75;font-size:11px;margin-top:2px", prompt.ranking));
  return box;
}

function place(node, children) {
  let widget = node.widgets?.find((one) => one.name === "hardprompts_result");
  if (!widget) {
    const box = element("div", "overflow:auto;padding:6px;color:var(--input-text,#ddd);background:var(--comfy-input-bg,#222);border-radius:6px");
    widget = node.addDOMWidget("hardprompts_result", "hardprompts", box, { serialize: false, getMinHeight: () => 120 });
    widget.serialize = false;
    node.setSize([Math.max(node.size[0], 380), Math.max(node.size[1], node.computeSize()[1])]);
  }
  widget.element.replaceChildren(...children);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "hardprompts.show",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    const shows = nodeData.name === "HardPromptsShow";
    if (!shows && !WITH_TEXT.has(nodeData.name)) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (message) {
      before?.apply(this, arguments);
      if (shows && message?.hardprompts) place(this, message.hardprompts.map(drawPrompt));
      else if (message?.text) {
        place(this, message.text.map((text) => element("div", "white-space:pre-wrap;font-family:monospace;font-size:11px", text)));
      }
    };
  },
});
