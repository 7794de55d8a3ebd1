"use strict";
// The conversation: kept in localStorage, sent to v1/chat/completions, whose answer is streamed into it.
// Addresses are relative, so that the page works under a proxy's path too.

const $ = (id) => document.getElementById(id);
const STORE = `llama-gateway ${location.pathname} `; // gateways under several paths share one storage
const CHAT = `${STORE}chat `;
const FIELDS = ["key", "system", "temperature", "top_p", "max_tokens"];
const NUMBERS = ["temperature", "top_p", "max_tokens"];

let models = new Map(); // by their ids, as v1/models tells them
let chat = newChat();
let running = null; // the AbortController of the answer under way

function newChat() {
  return { id: `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`, messages: [] };
}

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    $("status").textContent = "The browser's storage is full: delete conversations to keep this one.";
  }
}

function save() {
  if (chat.messages.length) remember(CHAT + chat.id, JSON.stringify({ ...chat, changed: Date.now() }));
  showChats();
}

function savedChats() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(CHAT));
  return keys.map((key) => JSON.parse(localStorage.getItem(key))).sort((a, b) => b.changed - a.changed);
}

function openChat(other) {
  running?.abort();
  chat = other;
  $("side").classList.remove("shown");
  $("menu").ariaExpanded = "false";
  $("status").textContent = "";
  show();
  showChats();
  $("input").focus();
}

function showChats() {
  $("chats").replaceChildren(...savedChats().map((saved) => {
    const item = element("li"), title = saved.messages[0].content.slice(0, 60);
    const open = element("button", { type: "button", textContent: title, title });
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Delete ${title}` });
    if (saved.id === chat.id) item.ariaCurrent = "true";
    open.onclick = () => openChat(saved);
    remove.onclick = () => {
      if (!confirm(`Delete “${title}”?`)) return;
      localStorage.removeItem(CHAT + saved.id);
      if (saved.id === chat.id) openChat(newChat());
      showChats();
    };
    item.append(open, remove);
    return item;
  }));
}

function show() {
  $("log").replaceChildren(...chat.messages.map((message, index) => shown(message, index)));
  $("log").scrollTop = $("log").scrollHeight;
}

function shown(message, index, busy = false) {
  const article = element("article", { className: message.role, ariaLabel: message.role === "user" ? "You" : "Answer", ariaBusy: String(busy) });
  if (message.reasoning) {
    const thinking = element("details", { className: "thinking", open: false });
    const text = element("div", { className: "text" });
    text.append(rendered(message.reasoning, !busy));
    thinking.append(element("summary", { textContent: busy && !message.content ? "Thinking…" : "Thoughts" }), text);
    article.append(thinking);
  }
  const text = element("div", { className: "text" });
  if (message.role === "user") text.textContent = message.content;
  else text.append(rendered(message.content, !busy));
  article.append(text);
  if (message.error) article.append(failure(message, index));
  if (!busy) article.append(tools(message, index, article));
  return article;
}

function failure(message, index) {
  const box = element("div", { className: "error", textContent: message.error });
  box.role = "alert";
  box.append(action("Retry", () => answerFrom(index)));
  if (message.status === 401) box.append(action("Enter a key", openSettings));
  return box;
}

function action(name, onclick) {
  return element("button", { type: "button", textContent: name, onclick });
}

function tools(message, index, article) {
  const row = element("div", { className: "tools" });
  if (message.content) row.append(copyButton(() => message.content, "Copy message"));
  if (message.role === "user") row.append(action("Edit", () => edit(message, index, article)));
  else if (!message.error && index === chat.messages.length - 1) row.append(action("Again", () => answerFrom(index)));
  if (message.figures) row.append(element("span", { textContent: message.figures }));
  return row;
}

function edit(message, index, article) {
  running?.abort();
  const box = element("form", { className: "edit" });
  const area = element("textarea", { value: message.content, rows: 4, ariaLabel: "Edit message" });
  const cancel = () => { article.replaceWith(shown(message, index)); $("input").focus(); };
  const send = () => {
    if (!area.value.trim()) return;
    chat.messages[index] = { role: "user", content: area.value };
    answerFrom(index + 1);
    $("input").focus();
  };
  area.onkeydown = (event) => onKeys(event, send, cancel);
  box.onsubmit = (event) => { event.preventDefault(); send(); };
  box.append(area, element("button", { type: "submit", textContent: "Send" }), action("Cancel", cancel));
  article.replaceChildren(box);
  area.focus();
}

function onKeys(event, enter, escape) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { // composing: Enter chooses a character
    event.preventDefault();
    enter();
  } else if (event.key === "Escape") {
    event.stopPropagation();
    escape();
  }
}

function body(messages) {
  const system = $("system").value.trim();
  const asked = messages.filter((message) => message.content).map(({ role, content }) => ({ role, content }));
  const request = { model: $("model").value, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) if ($(name).value !== "") request[name] = Number($(name).value);
  return { ...request, messages: system ? [{ role: "system", content: system }, ...asked] : asked };
}

async function call(path, options = {}) {
  const key = $("key").value.trim();
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(error.message.includes("header") || /[^\x20-\xff]/.test(key)
      ? "The key has a character that no key can have." : "The server cannot be reached. Is it running, and is there a network?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let sentence = `The server answered ${response.status}.`;
  try { sentence = JSON.parse(text).error.message; } catch { /* not the gateway's own answer */ }
  throw Object.assign(new Error(sentence), { status: response.status });
}

/** The JSON of each event. Throws what an error event says, and where the stream breaks off. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Error("The connection was lost before the answer ended.");
    });
    if (done) throw new Error("The answer broke off before its end.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((each) => each.startsWith("data:"))) {
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

/** Drop the messages from `index` on, and answer the one before it. */
async function answerFrom(index) {
  running?.abort();
  chat.messages.length = index;
  const mine = chat, stop = new AbortController(), answer = { role: "assistant", content: "", reasoning: "" };
  const messages = [...mine.messages];
  running = stop;
  mine.messages.push(answer);
  show();
  let article = $("log").lastElementChild, pause = 50, waiting = 0, first = 0, usage = null;
  const update = (busy) => {
    clearTimeout(waiting);
    waiting = 0;
    if (mine !== chat || !article.isConnected) return;
    const log = $("log"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80, start = performance.now();
    const fresh = shown(answer, index, busy), opened = article.querySelector("details")?.open;
    if (opened) fresh.querySelector("details").open = true;
    article.replaceWith(fresh);
    article = fresh;
    if (atEnd) log.scrollTop = log.scrollHeight;
    pause = Math.max(50, 8 * (performance.now() - start)); // each showing parses all of the text
  };
  update(true);
  $("send").textContent = "Stop";
  $("status").textContent = "";
  save();
  try {
    const response = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body(messages)), signal: stop.signal });
    for await (const event of events(response)) {
      usage = event.usage ?? usage;
      const delta = event.choices?.[0]?.delta ?? {};
      if (!delta.content && !delta.reasoning_content) continue;
      first ||= performance.now();
      answer.content += delta.content ?? "";
      answer.reasoning += delta.reasoning_content ?? "";
      waiting ||= setTimeout(update, pause, true);
    }
    answer.figures = speed(usage, (performance.now() - first) / 1000);
  } catch (error) {
    if (stop.signal.aborted) answer.figures = "stopped";
    else Object.assign(answer, { error: error.message, status: error.status });
  }
  update(false);
  if (running === stop) {
    running = null;
    $("send").textContent = "Send";
    if (usage) $("status").textContent = contextUsed(usage);
  }
  if (mine === chat) save();
  else if (localStorage.getItem(CHAT + mine.id)) remember(CHAT + mine.id, JSON.stringify({ ...mine, changed: Date.now() }));
}

function speed(usage, seconds) {
  return usage?.completion_tokens > 1 && seconds > 0 ? `${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
}

function contextUsed(usage) {
  const most = models.get($("model").value)?.max_model_len;
  return `${usage.total_tokens}${most ? ` of ${most}` : ""} tokens of context used`;
}

function send() {
  const content = $("input").value;
  if (running || !content.trim()) return;
  $("input").value = "";
  chat.messages.push({ role: "user", content });
  answerFrom(chat.messages.length);
}

async function listModels() {
  try {
    const { data } = await (await call("v1/models")).json();
    models = new Map(data.filter((model) => model.capabilities.includes("completion")).map((model) => [model.id, model]));
    const wanted = $("model").value || localStorage.getItem(`${STORE}model`);
    $("model").replaceChildren(...[...models.keys()].map((id) => element("option", { value: id, textContent: id })));
    if (models.has(wanted)) $("model").value = wanted;
    $("status").textContent = models.size ? "" : "No model that writes is served here.";
  } catch (error) {
    $("status").textContent = error.status === 401 ? `${error.message} Settings has a field for it.` : error.message;
  }
}

function openSettings() {
  $("settings").showModal();
}

for (const name of FIELDS) {
  $(name).value = localStorage.getItem(STORE + name) ?? "";
  $(name).onchange = () => remember(STORE + name, $(name).value);
}
$("key").addEventListener("change", listModels);
$("model").onchange = () => remember(`${STORE}model`, $("model").value);
$("open").onclick = openSettings;
$("settings").onclose = () => $("input").focus();
$("new").onclick = () => openChat(newChat());
$("menu").onclick = () => { $("menu").ariaExpanded = String($("side").classList.toggle("shown")); };
$("form").onsubmit = (event) => { event.preventDefault(); if (running) running.abort(); else send(); };
$("input").onkeydown = (event) => onKeys(event, send, () => running?.abort());
document.onkeydown = (event) => { if (event.key === "Escape" && !$("settings").open) running?.abort(); };
showChats();
listModels();
$("input").focus();
