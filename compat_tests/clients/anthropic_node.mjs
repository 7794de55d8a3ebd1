// @anthropic-ai/sdk from npm: the same cases as the other clients, told as one JSON line.
import Anthropic from "@anthropic-ai/sdk";

const [url, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url.replace(/\/v1$/, ""), apiKey: "unused", maxRetries: 0 });
const tools = [
  {
    name: "get_weather",
    input_schema: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
  },
];

const stream = client.messages.stream({
  model,
  messages: [{ role: "user", content: "Say hello." }],
  max_tokens: 12,
});
let text = "";
stream.on("text", (delta) => (text += delta));
const message = await stream.finalMessage();

const called = await client.messages
  .stream({
    model,
    messages: [{ role: "user", content: "What is the weather in Paris?" }],
    tools,
    tool_choice: { type: "any", disable_parallel_tool_use: true },
    max_tokens: 80,
  })
  .finalMessage();
const call = called.content.find((block) => block.type === "tool_use");

let failure = null;
try {
  await client.messages.create({ model: "missing", messages: [{ role: "user", content: "x" }], max_tokens: 1 });
} catch (error) {
  failure = error.constructor.name;
}
console.log(
  JSON.stringify({
    text,
    reason: message.stop_reason,
    completion_tokens: message.usage.output_tokens,
    tool: call.name,
    arguments: call.input,
    failure,
  }),
);
