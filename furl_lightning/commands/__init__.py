"""The commands furl-fit, furl-eval, furl-probe, furl-report, furl-oracle and furl-export."""
