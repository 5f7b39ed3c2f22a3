"""trustq: which labels should be checked, does it pay, and can the model be trusted afterwards?"""

__version__ = "0.1.0"
