#!/bin/sh
#BSUB -J minidask
#BSUB -n 8
#BSUB -R span[hosts=1]
#BSUB -W 90
#BSUB -wt 1
#BSUB -wa TERM
#BSUB -o /home/ada/logs/%J.log
#BSUB -q long
module load python
exec /opt/python -m minidask.worker tcp://login1:8786 --name "$LSB_JOBID" --access-file /home/ada/access --memory-limit 4GiB --nworkers 8
