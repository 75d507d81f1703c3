"""What every side agrees on: data format, features, model, evaluation, privacy accounting. Imports no Flower, no Opacus."""
