"""The Python door: what `import trustq as tq` gives, over arrays, data frames and files."""
