#!/bin/sh
# Takes a job as a cluster does: the script runs later, elsewhere, and an identity comes back.
nohup sh "$1" > "$1.log" 2>&1 &
echo $!
