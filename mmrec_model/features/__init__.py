"""The item feature store and the catalogue bundle every partner pins by digest."""
