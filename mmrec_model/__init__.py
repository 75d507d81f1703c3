"""What every side agrees on: data, features, model, evaluation, privacy. Imports no Flower and no Opacus."""
