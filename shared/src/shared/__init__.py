"""What two or more experiments need: command line, runs, tracking, report, data, backbones."""
