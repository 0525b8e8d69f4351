"""SISRM beside other networks, timed on the same machine in the same run; random weights take the same time as trained ones."""
