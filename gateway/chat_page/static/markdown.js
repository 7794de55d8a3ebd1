"use strict";
// An answer's Markdown as DOM nodes. HTML in it is shown as text; DOMPurify stands behind that, and behind both
// the page's Content-Security-Policy. No pictures: their addresses could carry a conversation to another host.

const ALLOWED = {
  ALLOWED_TAGS: ["a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li",
    "ol", "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};
const LONGEST_HIGHLIGHTED = 50_000; // characters

// KaTeX sets some styles as an attribute, which the page's policy forbids; the property does the same and is allowed.
const { setAttribute } = Element.prototype;
Element.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

const escaped = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

function mathToken(name, level, begin, rules) {
  return {
    name, level,
    start: (source) => begin.exec(source)?.index,
    tokenizer(source) {
      for (const [rule, display] of rules) {
        const match = rule.exec(source);
        if (match) return { type: name, raw: match[0], text: match[1].trim(), display };
      }
    },
    renderer: (token) => `<span class="math${token.display ? " display" : ""}">${escaped(token.text)}</span>`,
  };
}

marked.use({
  gfm: true, breaks: true,
  renderer: {
    html: (token) => escaped(token.text),
    image: (token) => `<a href="${escaped(token.href)}">${escaped(token.text || token.href)}</a>`,
  },
  extensions: [
    mathToken("mathBlock", "block", /(?<=\n)(?:\$\$|\\\[)/, [[/^\$\$([^$]{1,4000})\$\$(?:\n|$)/, true], [/^\\\[([^]{1,4000}?)\\\](?:\n|$)/, true]]),
    mathToken("math", "inline", /\$|\\[([]/, [
      [/^\$\$([^$]{1,4000})\$\$/, true], [/^\\\[([^]{1,4000}?)\\\]/, true], [/^\\\(([^]{1,2000}?)\\\)/, false],
      // Two prices in one line are no formula: no blank inside of the dollars, no digit behind them.
      [/^\$(?!\s)([^$\n]{1,500}?)(?<!\s)\$(?!\d)/, false],
    ]),
  ],
});

function codeBlock(pre, finished) {
  const code = pre.querySelector("code"), text = code.textContent;
  const language = /language-([\w+#-]+)/.exec(code.className)?.[1] ?? "";
  if (finished && hljs.getLanguage(language) && text.length < LONGEST_HIGHLIGHTED) {
    code.replaceChildren(DOMPurify.sanitize(hljs.highlight(text, { language }).value, ALLOWED));
  }
  const block = element("div", { className: "code" }), bar = element("div");
  bar.append(element("span", { textContent: language || "text" }), copyButton(() => text.replace(/\n$/, ""), "Copy code"));
  pre.replaceWith(block);
  block.append(bar, pre);
}

/** The nodes to show; `finished` says that nothing more comes, so that code is worth highlighting. */
function rendered(markdown, finished) {
  const fragment = DOMPurify.sanitize(marked.parse(markdown), ALLOWED);
  for (const math of fragment.querySelectorAll("span.math")) {
    const options = { displayMode: math.classList.contains("display"), throwOnError: false, trust: false, strict: "ignore", maxSize: 20 };
    katex.render(math.textContent, math, options); // builds nodes, whose styles the policy lets be set
  }
  for (const pre of fragment.querySelectorAll("pre")) if (pre.querySelector("code")) codeBlock(pre, finished);
  for (const link of fragment.querySelectorAll("a")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  return fragment;
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without HTTPS there is no clipboard but the old way
    const area = element("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", textContent: "Copy", ariaLabel: label });
  button.onclick = async () => {
    await copied(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  return button;
}
