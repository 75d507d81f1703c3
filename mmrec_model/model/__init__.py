"""The recommender: free content profile, popularity prior, and a trained residual that starts at zero."""
