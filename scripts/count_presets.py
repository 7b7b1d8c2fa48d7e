"""Print the presets of every system with their numbers of parameters: python scripts/count_presets.py"""

import torch

from regard.models import albert, bert, gpt, llama, rnnsearch, seq2seq, t5, transformer, ulmfit
from regard.models.catalog import model_class


def main() -> None:
    print("| preset | parameters |\n| --- | ---: |")
    for module in (seq2seq, rnnsearch, transformer, ulmfit, gpt, bert, albert, t5, llama):
        for name, config in module.PRESETS.items():
            with torch.device("meta"):  # counts without taking memory
                count = model_class(config.model_type)(config).count_parameters()
            print(f"| `{name}` | {count:,} |")


if __name__ == "__main__":
    main()
