"""Published image backbones (torchvision's ResNets, timm's Vision Transformers) ↔ transformers' encoders."""
