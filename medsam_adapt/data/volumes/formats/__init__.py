"""One module for each format of volumes; `medsam_adapt.data.volumes.io` chooses among them and checks the result."""
