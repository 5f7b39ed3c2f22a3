"""What the licence of a data set says of a model that was trained on it."""

# As the data sets' own pages state them; `trustq package` copies the line into the model.
_LINES = {
    "ham10000": "HAM10000 (Tschandl et al. 2018), CC BY-NC 4.0: no commercial use, credit required",
    "isic2018-task3": "ISIC 2018 Task 3, CC BY-NC 4.0: no commercial use, credit required",
    "isic2019": "ISIC 2019, CC BY-NC 4.0: no commercial use, credit required",
    "bcn20000": "BCN20000, CC BY-NC 4.0: no commercial use, credit required",
    "milk10k": "MILK10k, CC BY-NC 4.0: no commercial use, credit required",
    "pad-ufes-20": "PAD-UFES-20 (Pacheco et al. 2020), CC BY 4.0: credit required",
    "fitzpatrick17k": "Fitzpatrick17k (Groh et al. 2021), CC BY-NC-SA 3.0: no commercial use",
    "ddi": "Diverse Dermatology Images (Daneshjou et al. 2022), research use only",
    "digits": "Optical Recognition of Handwritten Digits (UCI), CC BY 4.0: credit required",
}


def licence_line(dataset: str) -> str:
    """The line of a data set, or of several joined by `+`; says where it is not known.

    >>> licence_line("pad-ufes-20")
    'PAD-UFES-20 (Pacheco et al. 2020), CC BY 4.0: credit required'
    """
    lines = [_LINES.get(name, f"{name}: licence not stated") for name in dataset.split("+")]
    return "; ".join(lines)
