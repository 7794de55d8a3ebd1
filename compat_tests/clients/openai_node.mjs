// openai from npm: the same cases as the other clients, told as one JSON line.
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
    },
  },
];

const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Say hello." }],
  max_tokens: 12,
  stream: true,
  stream_options: { include_usage: true },
});
let text = "", reason = null, usage = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? "";
  reason = chunk.choices[0]?.finish_reason ?? reason;
  usage = chunk.usage ?? usage;
}

const runner = client.chat.completions.stream({
  model,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  tools,
  tool_choice: "required",
  parallel_tool_calls: false,
  max_tokens: 80,
});
const call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0];

let failure = null;
try {
  await client.chat.completions.create({ model: "missing", messages: [{ role: "user", content: "x" }] });
} catch (error) {
  failure = error.constructor.name;
}
console.log(
  JSON.stringify({
    text,
    reason,
    completion_tokens: usage.completion_tokens,
    tool: call.function.name,
    arguments: JSON.parse(call.function.arguments),
    failure,
  }),
);
