"""LangChain's OpenAIEmbeddings: argv has the base URL and the model; prints the documents' vectors."""

import json
import sys

from langchain_openai import OpenAIEmbeddings

base_url, model = sys.argv[1:]
embeddings = OpenAIEmbeddings(
    base_url=base_url, model=model, api_key="unused", check_embedding_ctx_length=False
)
print(json.dumps(embeddings.embed_documents(json.load(sys.stdin))))
