"""Full-catalogue ranking metrics and the floors a trained model is compared with."""
