"""Which objectives on text have names in the literature, as AANG's Figures 1 and 2 and Table 2 decompose them.

A model's name stands for its objective alone: raysearch's encoder, heads and single attention stream stay the same.
"""

from __future__ import annotations

NAMED = (  # data/transform/representation/output, * for any, and the name; the first match counts
    ("end_task/bert/bidirectional/denoise", "TAPT's masked LM (Gururangan et al. 2020)"),
    ("in_domain/bert/bidirectional/denoise", "DAPT's masked LM (Gururangan et al. 2020)"),
    ("out_of_domain/bert/bidirectional/denoise", "BERT's masked LM (Devlin et al. 2019)"),
    ("*/bert/bidirectional/denoise", "BERT-style masked LM"),
    ("*/none/left_to_right/next_token", "GPT's language model (Radford et al. 2018); ELMo's, forwards"),
    ("*/none/right_to_left/next_token", "ELMo's language model, backwards (Peters et al. 2018)"),
    ("*/none/permutation/next_token", "XLNet-style permutation LM, one stream (Yang et al. 2019)"),
    ("*/none/left_to_right/denoise", "GPT-style as AANG ran it (its X)"),
    ("*/none/random_factorized/denoise", "XLNet-style as AANG ran it (its Y)"),
    ("end_task/bert/left_to_right/denoise", "AANG's New-Obj1 (Figure 2)"),
    ("in_domain/none/random_factorized/tfidf", "AANG's New-Obj2 (Figure 2)"),
    ("*/replace/bidirectional/real_synthetic", "ELECTRA-style detection, uniform replacements (Clark et al. 2020)"),
    ("*/delete/bidirectional/denoise", "BART-style token deletion, in an encoder (Lewis et al. 2020)"),
    ("*/none/bidirectional/denoise", "reconstruction of the input (an autoencoder)"),
    ("*/noisy_embeds/bidirectional/denoise", "denoising autoencoder (Vincent et al. 2008)"),
    ("end_task/none/bidirectional/end_task", "the end task once more, by a head of its own"),
    ("extra_*/none/bidirectional/extra_label", "multitask learning (Caruana 1997)"),
)
