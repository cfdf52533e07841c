"""Reading the option that a reply commits to, by fixed rules, in twenty languages; what cannot be read is unparsed.

:func:`parse_choice` cleans the reply (:mod:`.cleaning`, :mod:`.fields`, :mod:`.characters`), finds labels and option
texts (:mod:`.tokens`, :mod:`.option_texts`, :mod:`.elements`), reads what each sentence says of them
(:mod:`.statements`, :mod:`.roles`, :mod:`.walks`), and decides (:mod:`.decision`). The words of the languages are
data: ``vocabulary.yaml``.
"""

from pipelines.evaluate.parsing.choice import MAX_OPTIONS, parse_choice

__all__ = ["MAX_OPTIONS", "parse_choice"]
