"""Prediction: trained models that label videos, and their results."""
