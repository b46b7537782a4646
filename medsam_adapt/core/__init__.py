"""What everything else uses: errors, files, lazy imports, several processes."""
