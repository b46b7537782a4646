"""One module for each format of volumes; `medsam_adapt.data.io` chooses among them and checks what they read."""
