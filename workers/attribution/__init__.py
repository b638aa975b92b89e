"""Attribution: relevance of components by AttnLRP, and the baselines it is compared with."""
