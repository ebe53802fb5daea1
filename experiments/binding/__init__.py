"""Who helps whom to bind: BPNet, and genomes whose causes are known."""
