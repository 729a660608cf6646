"""The lines of the snippet that embed one text: by sentence-transformers where the checkpoint has its files, else by
transformers alone."""

from service.models.families.sentence_encoder import SentenceEncoder

LOAD_SENTENCE_TRANSFORMER = """\
{imports}
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{model}"{remote_code})
with open("{model}/{task_file}", encoding="utf-8") as file:
    task = json.load(file)["tasks"][0]
"""
ENCODE = """\
print(model.encode(text.strip()).tolist())
"""
MEAN = """\
tokens = tokenizer(text.strip(), return_tensors="pt", truncation=True, max_length=task["max_tokens"])
with torch.inference_mode():
    hidden = model(**tokens).last_hidden_state
print(hidden[0].mean(dim=0).tolist())  # of a batch without padding
"""


def embedding_lines(encoder: SentenceEncoder) -> str:
    """The lines that print the embedding of `text`. Without files of sentence-transformers it is the mean."""
    return ENCODE if encoder.has_files else MEAN
