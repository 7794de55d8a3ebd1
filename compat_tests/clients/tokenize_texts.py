"""Token ids by Hugging Face's tokenizers: argv has the model's tokenizer.json, stdin a JSON list of texts."""

import json
import sys

from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_truncation()
tokenizer.no_padding()
print(json.dumps([tokenizer.encode(text).ids for text in json.load(sys.stdin)]))
