"""What every page says of its limits."""

DISCLAIMER = "Research only, not a medical device."  # on pages and pictures that have one line
SAFETY = (
    "For research and education only: not a medical device, and not for diagnosis.",
    "An explanation shows what moved a network's output. It is not ground truth, and a map in the "
    "right place does not make a prediction right.",
    "Calibration and stability depend on the data set that they were measured on.",
    "Nothing here has been validated on external data unless a figure says so.",
)
