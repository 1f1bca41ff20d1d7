"""What the model card of Hermes 3 3B prints for its benchmarks."""

from __future__ import annotations

PRINTED_AVERAGES = {"gpt4all": 64.00, "agieval": 34.36, "bbh": 43.76}

# task, acc, acc_norm: https://huggingface.co/NousResearch/Hermes-3-Llama-3.2-3B
_ROWS = """
arc_challenge 0.4411 0.4377
arc_easy 0.7399 0.6566
boolq 0.8327 -
hellaswag 0.5453 0.7047
openbookqa 0.3480 0.4280
piqa 0.7639 0.7584
winogrande 0.6590 -
agieval_aqua_rat 0.2283 0.2441
agieval_logiqa_en 0.3057 0.3272
agieval_lsat_ar 0.2304 0.1957
agieval_lsat_lr 0.3784 0.3588
agieval_lsat_rc 0.4610 0.4275
agieval_sat_en 0.6019 0.5340
agieval_sat_en_without_passage 0.3981 0.3981
agieval_sat_math 0.2500 0.2636
leaderboard_bbh_boolean_expressions - 0.7560
leaderboard_bbh_causal_judgement - 0.6043
leaderboard_bbh_date_understanding - 0.3280
leaderboard_bbh_disambiguation_qa - 0.5880
leaderboard_bbh_formal_fallacies - 0.5280
leaderboard_bbh_geometric_shapes - 0.3560
leaderboard_bbh_hyperbaton - 0.6280
leaderboard_bbh_logical_deduction_five_objects - 0.3400
leaderboard_bbh_logical_deduction_seven_objects - 0.2880
leaderboard_bbh_logical_deduction_three_objects - 0.4160
leaderboard_bbh_movie_recommendation - 0.6760
leaderboard_bbh_navigate - 0.5800
leaderboard_bbh_object_counting - 0.3640
leaderboard_bbh_penguins_in_a_table - 0.3836
leaderboard_bbh_reasoning_about_colored_objects - 0.3560
leaderboard_bbh_ruin_names - 0.4160
leaderboard_bbh_salient_translation_error_detection - 0.3080
leaderboard_bbh_snarks - 0.5618
leaderboard_bbh_sports_understanding - 0.6600
leaderboard_bbh_temporal_sequences - 0.2320
leaderboard_bbh_tracking_shuffled_objects_five_objects - 0.1640
leaderboard_bbh_tracking_shuffled_objects_seven_objects - 0.1480
leaderboard_bbh_tracking_shuffled_objects_three_objects - 0.3120
leaderboard_bbh_web_of_lies - 0.5080
"""


def card_figures() -> dict[str, dict[str, float]]:
    """Value of each metric, from 0 to 1, by task, in the card's order."""
    figures: dict[str, dict[str, float]] = {}
    for line in _ROWS.split("\n"):
        if line:
            task, *values = line.split()
            named = zip(("acc", "acc_norm"), values, strict=True)
            figures[task] = {metric: float(value) for metric, value in named if value != "-"}
    return figures
