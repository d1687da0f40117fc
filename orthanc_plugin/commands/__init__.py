"""What ``./hilum`` does, one module for each command or for what several of them share.

The rule: nothing else imports a command; only ``cli`` does.
"""
