"""How good the planner is, on measurements that others published and on a study's own. Read in this order:

mapping, case, cases   which column is what; a row as the planner sees it
predict                what the planner says of each row, uncalibrated or with measured blocks
baselines, score       one constant, the rule of thumb; errors, order and regret
results                a study's runs against what its plan said of them
replay                 what a budget of measurements would have found in a published grid
run, show, cli         all together for one file; the table that people read; the command
"""
