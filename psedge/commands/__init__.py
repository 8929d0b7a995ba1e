"""What each `psedge` command takes, says about itself, and passes on."""
