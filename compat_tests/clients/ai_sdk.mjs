// Vercel's AI SDK over @ai-sdk/openai-compatible: the same cases, told as one JSON line.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";

const [baseURL, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "gateway", baseURL, apiKey: "unused", includeUsage: true });

const plain = streamText({ model: provider(model), prompt: "Say hello.", maxOutputTokens: 12, maxRetries: 0 });
let text = "";
for await (const part of plain.textStream) text += part;

const calling = streamText({
  model: provider(model),
  prompt: "What is the weather in Paris?",
  tools: {
    get_weather: tool({
      inputSchema: jsonSchema({
        type: "object",
        properties: { city: { type: "string", maxLength: 20 } },
        required: ["city"],
      }),
    }),
  },
  toolChoice: { type: "tool", toolName: "get_weather" },
  maxOutputTokens: 80,
  maxRetries: 0,
});
const [call] = await calling.toolCalls;

let failure = null;
const missing = streamText({ model: provider("missing"), prompt: "x", maxRetries: 0, onError() {} });
for await (const part of missing.fullStream) if (part.type === "error") failure = part.error.name;

console.log(
  JSON.stringify({
    text,
    reason: await plain.finishReason,
    completion_tokens: (await plain.usage).outputTokens,
    tool: call.toolName,
    arguments: call.input,
    failure,
  }),
);
